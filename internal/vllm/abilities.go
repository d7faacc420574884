package vllm

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
)

// Version is a release of vLLM: 0.25.1 is {0, 25, 1}.
type Version [3]int

func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v[0], v[1], v[2]) }

// Compare orders versions.
func (v Version) Compare(b Version) int { return slices.Compare(v[:], b[:]) }

var release = regexp.MustCompile(`(?:^|[\s:])v?(\d+)\.(\d+)\.(\d+)(?:$|[\s+.\-a-z])`)

// ParseVersion finds the version in what vllm --version prints; false if there is none,
// as of a build from sources without tags (0.1.dev1).
func ParseVersion(said string) (v Version, ok bool) {
	m := release.FindStringSubmatch(said)
	if m == nil {
		return v, false
	}
	for i, digits := range m[1:] {
		v[i], _ = strconv.Atoi(digits) // a number too large is a version too new
	}
	return v, true
}

// Oldest and Newest are the versions between which tokenfork is tried.
var Oldest, Newest = Version{0, 20, 0}, Version{0, 33, 0}

// Ability is something that not every version of vLLM can do.
type Ability struct {
	Name  string
	For   string  // what needs it
	Since Version // as docs/infer.md has it, from the sources
}

// Abilities are those that tokenfork uses.
var Abilities = []Ability{
	{"--enable-prompt-tokens-details", "counts of cached tokens", Version{0, 20, 0}},
	{"Generate API", "token ids without text", Version{0, 20, 0}},
	{BatchInvariance, "--deterministic", Version{0, 20, 0}},
	{PromptLogits, "predict's AU, EU and --logits", Version{0, 26, 0}},
}

// Since is the first version that has the ability of this name.
func Since(name string) Version {
	i := slices.IndexFunc(Abilities, func(a Ability) bool { return a.Name == name })
	return Abilities[i].Since
}

// Names of abilities that a job can need.
const (
	BatchInvariance = "batch invariance"
	PromptLogits    = "logits of a prompt"
)
