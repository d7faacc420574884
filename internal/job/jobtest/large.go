package jobtest

import (
	"fmt"
	"strings"

	"tokenfork/internal/job"
)

const largeTokens = 2000

// large is a text of Large's, all its own.
func large(n int) *job.Text {
	s := &job.Text{Ordinal: int64(n), ID: fmt.Sprint("text-", n), RowRuns: []int64{int64(largeTokens * n), largeTokens}}
	for p := range largeTokens {
		word := int32((n*31 + p*p) % len(words))
		s.Real = append(s.Real, word)
		s.SmallPredictions = append(s.SmallPredictions, word)
		s.ReferencePredictions = append(s.ReferencePredictions, word)
	}
	s.SmallPredictions, s.ReferencePredictions = append(s.SmallPredictions, -1), append(s.ReferencePredictions, -1)
	for i := range LargePerText {
		p := 1 + 9*i
		s.SmallPredictions[p] = (s.Real[p] + 1) % int32(len(words))
		s.Mismatches = append(s.Mismatches, int32(p))
		for _, m := range []*[]float64{&s.SmallEntropy, &s.SmallAU, &s.SmallEU, &s.ReferenceEntropy, &s.ReferenceAU, &s.ReferenceEU} {
			*m = append(*m, float64((n+i*i)%1000)/1000)
		}
	}
	return s
}

// largeEngine is the record of both sides' engine, as infer writes it.
const largeEngine = `{
 "version": "0.32.0",
 "dtype": "torch.bfloat16",
 "quantization": "None",
 "kv_cache_dtype": "auto",
 "tensor_parallel": "1",
 "max_model_len": "4096",
 "prefix_caching": "True",
 "enforce_eager": "False"
}`

func largeContinuations(x *job.Text, side job.Side, tokens int) []job.Continuation {
	finish, engine := job.FinishStop, job.EngineHash([]byte(largeEngine))
	var cs []job.Continuation
	for i, p := range x.Mismatches {
		c := job.Continuation{Ordinal: x.Ordinal, Position: p, Fork: int32(side), Finish: &finish, RestAt: p + 1, RestID: 3, Replayed: 1, Engine: &engine,
			IDs: []int32{x.Predictions(side)[p]}}
		for k := range tokens - 2 {
			c.IDs = append(c.IDs, int32((int(x.Ordinal)+i*k+int(side))%(len(words)-1)))
		}
		c.IDs = append(c.IDs, int32(len(words)-1))
		cs = append(cs, c)
	}
	return cs
}

func largeVerdicts(x *job.Text) []job.Verdict {
	var vs []job.Verdict
	for i, p := range x.Mismatches {
		match, confidence, source := (int(x.Ordinal)+i)%3 != 0, float64(i%100)/100, "logprob_masked"
		why := fmt.Sprintf("%s at %d of text %d", strings.Repeat("The two continuations say much the same. ", 4), p, x.Ordinal)
		vs = append(vs, job.Verdict{Ordinal: x.Ordinal, Position: p, MeaningMatch: &match, Explanation: &why, Confidence: &confidence, ConfidenceSource: &source,
			KeyDifferences: []string{"the animal that is seen", "when it is seen"}, JudgeModel: "judge", PromptVersion: "seed-1", PromptHash: strings.Repeat("0", 64)})
	}
	return vs
}
