// Command goreleaser-check reads a GoReleaser configuration by GoReleaser's own strict
// loader, which refuses unknown and repeated names. It is a module of its own: the whole of
// GoReleaser takes five minutes to build, its loader seconds.
package main

import (
	"fmt"
	"os"

	"github.com/goreleaser/goreleaser/v2/pkg/config"
)

func main() {
	for _, file := range os.Args[1:] {
		project, err := config.Load(file)
		if err == nil && (len(project.Builds) == 0 || len(project.SBOMs) == 0) {
			err = fmt.Errorf("no builds or no sboms") // an empty file is a valid one
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "goreleaser-check: %s: %v\n", file, err)
			os.Exit(1)
		}
	}
}
