package slurmtest

import (
	"testing"
)

func TestClusterRunsArrayOnBothNodes(t *testing.T) {
	c := Start(t, "MaxArraySize=7")
	c.Run("sbatch", "--wait", "--array=0-5", "--output=/dev/null", "--cpus-per-task=16", "--wrap", "hostname; sleep 1")
	if out, err := c.Command("sbatch", "--array=0-7", "--wrap", "true").CombinedOutput(); err == nil {
		t.Errorf("an array beyond MaxArraySize was taken: %s", out)
	}
}
