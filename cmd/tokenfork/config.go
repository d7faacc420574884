package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/agext/levenshtein"
	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"

	"tokenfork/internal/failure"
	"tokenfork/internal/secret"
)

// configFlag names a file with values of flags. The command line and the environment
// come before it, defaults after it.
type configFlag string

// BeforeResolve reads the file, which kong then asks for each flag.
func (c configFlag) BeforeResolve(app *kong.Kong, ctx *kong.Context, at *kong.Path) error {
	path := string(ctx.FlagValue(at.Flag).(configFlag))
	if path == "" {
		return nil
	}
	f, err := os.Open(kong.ExpandPath(path))
	if err != nil {
		return err
	}
	defer f.Close()
	file := &configFile{general: map[string]any{}, commands: map[string]map[string]any{}}
	if err := file.read(f, app.Model); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	ctx.AddResolver(file)
	return nil
}

// configFile has flags' values: for every command that has the flag, and for one alone.
type configFile struct {
	general  map[string]any
	commands map[string]map[string]any
}

// Validate has nothing left to do: read knows all commands and flags.
func (f *configFile) Validate(*kong.Application) error { return nil }

// Resolve gives the flag's value, if the environment has none.
func (f *configFile) Resolve(ctx *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	if fromEnvironment(flag) != "" {
		return nil, nil
	}
	if v, ok := f.commands[commandOf(ctx)][flag.Name]; ok {
		return v, nil
	}
	return f.general[flag.Name], nil
}

func commandOf(ctx *kong.Context) string {
	for _, p := range ctx.Path {
		if p.Command != nil {
			return p.Command.Name
		}
	}
	return ""
}

// fromEnvironment names the variable that sets the flag, if one does.
func fromEnvironment(flag *kong.Flag) string {
	for _, name := range flag.Envs {
		if _, ok := os.LookupEnv(name); ok {
			return name
		}
	}
	return ""
}

// read takes names and values as they are written: 32.0 stays 32.0. What no command
// knows is refused.
func (f *configFile) read(r io.Reader, app *kong.Application) error {
	var root yaml.Node
	d := yaml.NewDecoder(r)
	if err := d.Decode(&root); errors.Is(err, io.EOF) {
		return nil // nothing but comments
	} else if err != nil {
		return fmt.Errorf("not YAML: %w", err)
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return errors.New("more than one YAML document")
	}
	commands, all := map[string]map[string]*kong.Flag{}, map[string]*kong.Flag{}
	for _, flag := range app.Flags {
		if flag.Name == "log-format" { // the others are no settings
			all[flag.Name] = flag
		}
	}
	for _, c := range app.Children {
		commands[c.Name] = map[string]*kong.Flag{}
		for _, flag := range c.Flags {
			commands[c.Name][flag.Name], all[flag.Name] = flag, flag
		}
	}
	return pairs(root.Content[0], func(name string, line int, value *yaml.Node) error {
		flags, ok := commands[name]
		if !ok || all[name] != nil && value.Kind != yaml.MappingNode {
			return setFlag(f.general, all, name, line, value, slices.Sorted(maps.Keys(commands)))
		}
		f.commands[name] = map[string]any{}
		return pairs(value, func(flag string, line int, value *yaml.Node) error {
			return setFlag(f.commands[name], flags, flag, line, value, nil)
		})
	})
}

// pairs gives the entries of a mapping, each name once.
func pairs(n *yaml.Node, f func(name string, line int, value *yaml.Node) error) error {
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: want flags and their values, NAME: VALUE", n.Line)
	}
	seen := map[string]bool{}
	for i := 0; i < len(n.Content); i += 2 {
		name := n.Content[i]
		if seen[name.Value] {
			return fmt.Errorf("line %d: %s is set a second time", name.Line, name.Value)
		}
		seen[name.Value] = true
		if err := f(name.Value, name.Line, n.Content[i+1]); err != nil {
			return err
		}
	}
	return nil
}

func setFlag(to map[string]any, flags map[string]*kong.Flag, name string, line int, n *yaml.Node, others []string) error {
	flag, ok := flags[name]
	if !ok {
		return fmt.Errorf("line %d: no flag is called %s%s", line, name, didYouMean(name, append(slices.Sorted(maps.Keys(flags)), others...)))
	}
	v, err := configValue(n, flag)
	if err != nil {
		return fmt.Errorf("line %d: %s: %w", line, name, err)
	}
	to[name] = v
	return nil
}

// configValue is a value as kong takes it: text, a list of it, or a map.
func configValue(n *yaml.Node, flag *kong.Flag) (any, error) {
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag != "!!null":
		return n.Value, nil
	case n.Kind == yaml.SequenceNode && flag.IsSlice():
		var list []any
		for _, c := range n.Content {
			if c.Kind != yaml.ScalarNode || c.Tag == "!!null" {
				return nil, errors.New("want a list of single values")
			}
			list = append(list, c.Value)
		}
		if flag.Target.Type().Elem().Kind() == reflect.String {
			return list, nil
		}
		return joined(list, flag.Tag.Sep), nil // numbers: kong reads them from text
	case n.Kind == yaml.MappingNode && flag.IsMap():
		values := map[string]any{}
		return values, pairs(n, func(name string, _ int, c *yaml.Node) error {
			if c.Kind != yaml.ScalarNode || c.Tag == "!!null" {
				return errors.New("want single values")
			}
			values[name] = c.Value
			return nil
		})
	case n.Tag == "!!null":
		return nil, errors.New("has no value")
	default:
		return nil, errors.New("want a single value")
	}
}

func joined(list []any, sep rune) string {
	var words []string
	for _, v := range list {
		words = append(words, fmt.Sprint(v))
	}
	return strings.Join(words, string(sep))
}

// didYouMean is the likeliest of the names for a mistyped one, as a question; nothing if
// none is near.
func didYouMean(name string, names []string) string {
	best, least := "", 1+len(name)/3
	for _, n := range names {
		if d := levenshtein.Distance(name, n, nil); d <= least && (best == "" || d < least) {
			best, least = n, d
		}
	}
	if best == "" {
		return ""
	}
	return ", did you mean " + best + "?"
}

// similarFile is didYouMean for an argument that the error names and that would be a file
// or a folder, if it were there.
func similarFile(err error, args []string) string {
	for _, arg := range args {
		if _, value, ok := strings.Cut(arg, "="); ok && strings.HasPrefix(arg, "-") {
			arg = value
		}
		if arg == "" {
			continue
		}
		name := filepath.Base(arg)
		if _, missing := os.Stat(arg); !errors.Is(missing, os.ErrNotExist) || !strings.Contains(err.Error(), arg) && !strings.Contains(err.Error(), string(filepath.Separator)+name) {
			continue
		}
		entries, err := os.ReadDir(filepath.Dir(arg))
		if err != nil {
			continue
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		if similar := didYouMean(name, names); similar != "" {
			return similar
		}
	}
	return ""
}

// configCmd shows what a command's flags are set to.
type configCmd struct {
	Command []string `arg:"" passthrough:"" help:"A command and its flags, as it would be run."`
}

// Help shows how it is used.
func (configCmd) Help() string {
	return `Examples:
  tokenfork config infer --config tokenfork.yaml --shard 17
  tokenfork config run table.csv --job ./job --config tokenfork.yaml

tokenfork.yaml has flags by their names, for every command that has them, and below a command's name for it alone:
  job: /shared/job
  small-model: /models/small
  infer:
    part-every: 5m
    small-args: --max-model-len 8192

A flag on the command line comes first, then the environment, the file and the default.`
}

// Run is the command.
func (c *configCmd) Run(app *cli, con *console) error {
	args := c.Command
	if app.Config != "" {
		args = append(slices.Clone(args), "--config", string(app.Config))
	}
	parser, err := newParser(&cli{}, con.out, con.err, kong.Exit(func(int) {}))
	if err != nil {
		return err
	}
	ctx, err := parser.Parse(args)
	if incomplete, ok := errors.AsType[*kong.ParseError](err); ok {
		ctx = incomplete.Context
	}
	if ctx == nil || ctx.Selected() == nil || ctx.Error != nil {
		return badUsage(err)
	}
	w := tabwriter.NewWriter(con.out, 0, 0, 2, ' ', 0)
	for _, group := range ctx.Selected().AllFlags(true) {
		for _, flag := range group {
			if flag.Name != "help" && flag.Name != "version" {
				fmt.Fprintf(w, "--%s\t%s\t%s\n", flag.Name, effective(flag), source(ctx, flag))
			}
		}
	}
	return errors.Join(w.Flush(), badUsage(err))
}

// effective is the flag's value, unless it is a secret.
func effective(flag *kong.Flag) string {
	v := flag.Target
	for v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	if v.Kind() == reflect.Pointer || v.Kind() == reflect.Slice && v.Len() == 0 || v.Kind() == reflect.Map && v.Len() == 0 {
		return "-"
	}
	if v.Kind() == reflect.Map {
		for _, key := range v.MapKeys() {
			if secret.Variable(key.String(), fmt.Sprint(v.MapIndex(key))) {
				return "SECRET"
			}
		}
	}
	s := fmt.Sprint(v.Interface())
	if secret.Variable(flag.Name, s) || secret.In(s) != "" {
		return "SECRET"
	}
	if s == "" {
		return "-"
	}
	return s
}

func source(ctx *kong.Context, flag *kong.Flag) string {
	from := "default"
	for _, p := range ctx.Path {
		if p.Flag == flag && !p.Resolved {
			return "flag"
		} else if p.Flag == flag {
			from = "file"
		}
	}
	if name := fromEnvironment(flag); name != "" {
		return "env " + name
	}
	return from
}

// badUsage is an error of the command line.
func badUsage(err error) error {
	if err == nil {
		return nil
	}
	return failure.New(failure.Usage, "see tokenfork --help", "%w", err)
}
