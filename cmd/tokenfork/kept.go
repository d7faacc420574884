package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"tokenfork/internal/secret"
)

// argsFlags say how servers of the models are started.
type argsFlags struct {
	SmallArgs     string `kept:"" placeholder:"ARGS" help:"Further flags for vllm serve of the small model."`
	ReferenceArgs string `kept:"" placeholder:"ARGS" help:"Further flags for vllm serve of the reference model."`
	ReferenceTP   int    `kept:"" name:"reference-tp" placeholder:"N" help:"GPUs that each server of the reference is spread over (tensor parallel; default: the fewest that will do)."`
}

// serverFlags say where the models' servers are, or how they are started.
type serverFlags struct {
	SmallURL     []string `kept:"" name:"small-url" placeholder:"URL" help:"Servers of the small model that already run."`
	ReferenceURL []string `kept:"" name:"reference-url" placeholder:"URL" help:"Servers of the reference model that already run."`
	argsFlags    `embed:""`
}

// judgeServerFlags say how servers of a local judge are started.
type judgeServerFlags struct {
	JudgeArgs string `kept:"" placeholder:"ARGS" help:"Further flags for vllm serve of a local judge."`
	JudgeTP   int    `kept:"" name:"judge-tp" placeholder:"N" help:"GPUs that each server of a local judge is spread over (tensor parallel; default: the fewest that will do)."`
}

// keptFlags name again, of flags that are tagged as kept, those that are not at their
// defaults: messages advise them, and a job keeps them. A secret is not named.
func keptFlags(all ...any) (words []string, err error) {
	for _, flags := range all {
		parser, err := kong.New(flags, kong.NoDefaultHelp())
		if err != nil {
			return nil, err
		}
		for _, flag := range parser.Model.Flags {
			if flag.Tag.Has("kept") {
				words = append(words, kept(flag)...)
			}
		}
	}
	return words, nil
}

func kept(flag *kong.Flag) (words []string) {
	v := reflect.Indirect(flag.Target)
	if !v.IsValid() || v.IsZero() && flag.Default == "" {
		return nil
	}
	switch value := v.Interface().(type) {
	case bool:
		return []string{"--" + flag.Name}
	case []string:
		for _, one := range value {
			words = append(words, "--"+flag.Name, unlessSecret(one))
		}
		return words
	case map[string]string:
		for _, name := range slices.Sorted(maps.Keys(value)) {
			said := value[name]
			if flag.Tag.Get("kept") != "variables" && secret.Variable(name, said) {
				said = "SECRET"
			}
			words = append(words, "--"+flag.Name, name+"="+said)
		}
		return words
	}
	if value := fmt.Sprint(v.Interface()); value != flag.Default {
		words = []string{"--" + flag.Name, unlessSecret(value)}
	}
	return words
}

func unlessSecret(value string) string {
	if secret.In(value) != "" {
		return "SECRET"
	}
	return value
}

// flags say again where infer finds its models and servers, and which checks it was told to
// relax. A folder is named from the root.
func (f inferFlags) flags(w *workFlags, m modelFlags) ([]string, error) {
	for _, side := range []struct {
		urls        []string
		model, args *string
	}{{f.SmallURL, &m.SmallModel, &f.SmallArgs}, {f.ReferenceURL, &m.ReferenceModel, &f.ReferenceArgs}} {
		var err error
		if len(side.urls) > 0 {
			*side.model, *side.args = "", ""
		} else if *side.model, err = fromRoot(*side.model); err != nil {
			return nil, err
		}
	}
	if len(f.ReferenceURL) > 0 {
		f.ReferenceTP = 0
	}
	if len(f.SmallURL) > 0 && len(f.ReferenceURL) > 0 {
		return keptFlags(&f)
	}
	return keptFlags(&m, &f, w)
}

// flags name the judge and its settings again. A folder is named from the root.
func (f judgeFlags) flags(w *workFlags) ([]string, error) {
	var err error
	for _, model := range []*string{&f.JudgeModel, &f.JudgeFirstModel} {
		if *model, err = fromRoot(*model); err != nil {
			return nil, err
		}
	}
	if path, ok := strings.CutPrefix(f.JudgePrompt, "file="); ok {
		if path, err = filepath.Abs(path); err != nil {
			return nil, err
		}
		f.JudgePrompt = "file=" + path
	}
	if f.Judge != "local" {
		f.judgeServerFlags = judgeServerFlags{}
		if f.JudgeFirst != "local" {
			return keptFlags(&f)
		}
	}
	return keptFlags(&f, w)
}

// fromRoot is a folder's whole path, and any other name as it is: a hub's, or of a judge
// behind a URL.
func fromRoot(name string) (string, error) {
	if _, err := os.Stat(name); name == "" || err != nil {
		return name, nil
	}
	return filepath.Abs(name)
}
