package main

import (
	"strconv"

	"tokenfork/internal/job"
	"tokenfork/internal/secret"
)

// keptFlags name something again: messages advise them, and a job keeps them.
type keptFlags []string

// add adds a flag unless its value is its default. A value that holds a secret is not named.
func (k *keptFlags) add(name, value, otherwise string) {
	if secret.In(value) != "" {
		value = "SECRET"
	}
	if value != otherwise {
		*k = append(*k, name, value)
	}
}

// flags say again where infer finds its models and servers, and which checks it
// was told to relax: what messages advise and a job keeps. Those that only say how
// fast are left out. A folder is named from the root, a secret not at all.
func (f *inferFlags) flags(w *workFlags, m *modelFlags) ([]string, error) {
	var all keptFlags
	for _, side := range []struct {
		name, model, args string
		urls              []string
	}{{job.Small.String(), m.SmallModel, f.SmallArgs, f.SmallURL}, {job.Reference.String(), m.ReferenceModel, f.ReferenceArgs, f.ReferenceURL}} {
		for _, url := range side.urls {
			all.add("--"+side.name+"-url", url, "")
		}
		if len(side.urls) > 0 {
			continue
		}
		model, err := fromRoot(side.model)
		if err != nil {
			return nil, err
		}
		all.add("--"+side.name+"-model", model, "")
		all.add("--"+side.name+"-args", side.args, "")
	}
	if len(f.ReferenceURL) == 0 {
		all.add("--reference-tp", strconv.Itoa(f.ReferenceTP), "0")
	}
	if len(f.SmallURL) == 0 || len(f.ReferenceURL) == 0 {
		all.add("--vllm", w.VLLM, "vllm")
	}
	all.add("--replay-min-agreement", strconv.FormatFloat(f.ReplayMinAgree, 'f', -1, 64), "0.95")
	if f.AllowMixedEngines {
		all = append(all, "--allow-mixed-engines")
	}
	return all, nil
}
