// Package version says which tokenfork this is, from what the Go linker records.
package version

import (
	"fmt"
	"runtime/debug"
)

// Build is what is known of a build. Empty fields were not recorded: go run and
// tests record no commit.
type Build struct {
	Version string // of the module: a git tag, or a pseudo-version after the last one
	Commit  string // full hash
	Time    string // of the commit, RFC 3339
	Dirty   bool   // files differed from the commit
	Go      string
}

// Current is this program's build.
func Current() Build {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return Build{Version: "unknown"}
	}
	b := Build{Version: info.Main.Version, Go: info.GoVersion}
	if b.Version == "" {
		b.Version = "(devel)"
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Commit = s.Value
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			b.Dirty = s.Value == "true"
		}
	}
	return b
}

// String is one line: version, commit, date of the commit, Go.
func (b Build) String() string {
	line := b.Version
	if b.Commit != "" {
		line += fmt.Sprintf(", commit %.12s", b.Commit)
		if b.Dirty {
			line += " with changes"
		}
		line += " of " + b.Time
	}
	if b.Go != "" {
		line += ", " + b.Go
	}
	return line
}
