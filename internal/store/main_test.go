package store

import (
	"flag"
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", "6"); err != nil { // parallel tests wait for trouble to pass
		panic(err)
	}
	os.Exit(m.Run())
}
