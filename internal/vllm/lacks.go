package vllm

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// lacks remembers which optional flags a command's vLLM was seen not to know: one
// start fails for it, not one of each task.
type lacks struct {
	path  string // "": this process alone remembers
	key   string
	flags []string
}

// lacking has the flags by lacks.key.
var lacking sync.Map

// lacksFor is how long a file is believed: what runs behind an image's name may change.
const lacksFor = 7 * 24 * time.Hour

// loadLacks finds what is known of the command. What tells one version from another
// is the state of the files that it names: the program, an image.
func loadLacks(command []string, dir string) *lacks {
	sum := sha256.New()
	for i, word := range command {
		fmt.Fprintf(sum, "%q", word)
		if i == 0 {
			if path, err := exec.LookPath(word); err == nil {
				word = path
			}
		}
		if real, err := filepath.EvalSymlinks(word); err == nil {
			if info, err := os.Stat(real); err == nil {
				fmt.Fprintf(sum, "%q %d %d", real, info.Size(), info.ModTime().UnixNano())
			}
		}
	}
	l := &lacks{key: fmt.Sprintf("%x", sum.Sum(nil))}
	if dir != "" {
		l.path = filepath.Join(dir, l.key[:32]+".json")
	}
	if known, ok := lacking.Load(l.key); ok {
		l.flags = slices.Clone(known.([]string))
		return l
	}
	info, err := os.Stat(l.path)
	if err != nil || time.Since(info.ModTime()) > lacksFor {
		return l
	}
	b, err := os.ReadFile(l.path)
	if err != nil || json.Unmarshal(b, &l.flags) != nil || !slices.ContainsFunc(l.flags, isOptional) {
		l.flags = nil
	}
	return l
}

func isOptional(flag string) bool { return slices.Contains(optionalFlags, flag) }

// add remembers further flags.
func (l *lacks) add(log *slog.Logger, flags ...string) {
	l.flags = append(l.flags, flags...)
	lacking.Store(l.key, slices.Clone(l.flags))
	if l.path == "" {
		return
	}
	b, err := json.Marshal(l.flags)
	if err == nil {
		next := l.path + "." + newNonce()
		if err = os.WriteFile(next, b, 0o600); err == nil {
			err = os.Rename(next, l.path)
		}
	}
	if err != nil {
		log.Warn("the flags that this vLLM lacks are not remembered for the next start", "error", err)
	}
}
