package main

import (
	"testing"

	"tokenfork/internal/job"
	"tokenfork/internal/tokenizer"
)

func TestPresetR2R(t *testing.T) {
	f := labelFlags{Preset: "r2r", Replay: "auto", TopP: 1}
	if s := f.settings(); s.Trajectories != job.Real || s.Ends != tokenizer.R2REnds || s.MaxNewTokens != 8192 || s.Temperature != 0 || !s.R2RMismatches {
		t.Errorf("got %+v", s)
	}
	limit := 64
	f.Trajectories, f.MaxNewTokens = job.FromReference, &limit
	if s := f.settings(); s.Trajectories != job.FromReference || s.Ends != tokenizer.R2REnds || s.MaxNewTokens != 64 {
		t.Errorf("what is given by itself does not win: %+v", s)
	}
	f = labelFlags{Preset: "study", Replay: "auto", TopP: 1}
	if s := f.settings(); s.Trajectories != job.Own || s.Ends != tokenizer.DefaultEnds || s.MaxNewTokens != 128 || s.R2RMismatches {
		t.Errorf("got %+v", s)
	}
}
