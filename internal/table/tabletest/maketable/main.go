// Command maketable writes a generated table to standard output.
package main

import (
	"flag"
	"log"
	"os"

	"tokenfork/internal/table/tabletest"
)

func main() {
	var c tabletest.Config
	flag.StringVar(&c.Layout, "layout", "study", "study or r2r")
	flag.IntVar(&c.Rows, "rows", 1_000_000, "rows")
	flag.IntVar(&c.Tokens, "tokens", 6000, "mean tokens of a text")
	flag.IntVar(&c.Vocab, "vocab", 151_000, "ids are below")
	flag.Float64Var(&c.Mismatch, "mismatch", 0.11, "share of mismatches")
	flag.Uint64Var(&c.Seed, "seed", 1, "seed")
	flag.Parse()
	if err := tabletest.Write(os.Stdout, c); err != nil {
		log.Fatal(err)
	}
}
