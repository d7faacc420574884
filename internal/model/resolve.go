package model

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"tokenfork/internal/failure"
	"tokenfork/internal/regular"
)

// hubName is what a name on the hub may look like: ORG/NAME or NAME, and @REVISION.
var hubName = regexp.MustCompile(`^(?:\w[\w.-]*/)?\w[\w.-]*(?:@[\w.][\w./-]*)?$`)

// Resolve finds the folder of a model: nameOrPath itself if it is a folder with a
// config.json, else the snapshot of a hub name, ORG/NAME or ORG/NAME@REVISION, in the
// local hub cache. Nothing is downloaded; the error has the command that does. The
// cache is where env (os.Getenv) says: HF_HUB_CACHE, HF_HOME or the default below
// XDG_CACHE_HOME or HOME.
func Resolve(nameOrPath string, env func(string) string) (dir string, err error) {
	if info, err := os.Stat(nameOrPath); err == nil && info.IsDir() {
		return ownFolder(nameOrPath)
	}
	if !hubName.MatchString(nameOrPath) || strings.Contains(nameOrPath, "..") {
		return "", failure.New(failure.Refused, "give a model folder, or a hub name like ORG/NAME or ORG/NAME@REVISION",
			"find model: no folder %s, and no hub name either", nameOrPath)
	}
	return cached(nameOrPath, cacheFolder(env))
}

func ownFolder(path string) (string, error) {
	if !exists(filepath.Join(path, "config.json")) {
		return "", failure.New(failure.Refused, "give the folder that holds config.json",
			"find model: folder %s has no config.json", path)
	}
	dir, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("find model %s: %w", path, err)
	}
	return dir, nil
}

// cacheFolder is where the hub's clients keep what they download.
func cacheFolder(env func(string) string) string {
	if dir := env("HF_HUB_CACHE"); dir != "" {
		return dir
	}
	if dir := env("HF_HOME"); dir != "" {
		return filepath.Join(dir, "hub")
	}
	if dir := env("XDG_CACHE_HOME"); dir != "" {
		return filepath.Join(dir, "huggingface", "hub")
	}
	return filepath.Join(env("HOME"), ".cache", "huggingface", "hub")
}

// cached is the snapshot of name in the hub cache.
func cached(name, cache string) (string, error) {
	repo, revision, _ := strings.Cut(name, "@")
	if revision == "" {
		revision = "main"
	}
	folder := filepath.Join(cache, "models--"+strings.ReplaceAll(repo, "/", "--"))
	commit := revision
	if ref, err := regular.Read(filepath.Join(folder, "refs", filepath.FromSlash(revision))); err == nil {
		commit = strings.TrimSpace(string(ref))
	}
	dir := filepath.Join(folder, "snapshots", commit)
	if exists(filepath.Join(dir, "config.json")) {
		return filepath.Abs(dir)
	}
	return "", notCached(repo, revision, folder)
}

// notCached names the command that downloads the model, and the revisions that are
// there in its place.
func notCached(repo, revision, folder string) error {
	hint := "hf download " + repo
	if revision != "main" {
		hint += " --revision " + revision
	}
	there, _ := filepath.Glob(filepath.Join(folder, "snapshots", "*", "config.json"))
	for _, path := range there {
		hint += ", or use " + repo + "@" + filepath.Base(filepath.Dir(path)) + " which is there"
	}
	return failure.New(failure.Refused, hint,
		"find model: %s, revision %s, is not complete in the cache (%s)", repo, revision, folder)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
