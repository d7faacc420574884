package judge

import (
	"context"

	"tokenfork/internal/job"
	"tokenfork/judge/agreement"
)

// Measured is how far a judge agrees with labels, and where there are two, how to
// use them together.
type Measured struct {
	agreement.Report
	Two *agreement.Calibration // nil for one judge
}

// String is the report for people.
func (m *Measured) String() string {
	if m.Two == nil {
		return m.Report.String()
	}
	return m.Report.String() + "\n" + m.Two.String()
}

// twoVerdicts are those of the judge and, of two, the first one.
type twoVerdicts struct{ judge, first *job.Verdict }

// askAll asks every judge, whatever the first one says.
func (r *runner) askAll(ctx context.Context, q *Question) (all twoVerdicts, err error) {
	if r.first != nil {
		v, err := r.first.judge.Ask(ctx, q)
		if err != nil {
			return all, err
		}
		all.first = &v
	}
	v, err := r.judge.Ask(ctx, q)
	all.judge = &v
	return all, err
}

func (v twoVerdicts) asCase(cluster string, human bool, kind string) agreement.Case {
	c := agreement.Case{Cluster: cluster, Human: human, Kind: kind}
	if v.judge != nil {
		c.Strong = v.judge.MeaningMatch
	}
	if v.first == nil || v.first.ConfidenceSource != nil && *v.first.ConfidenceSource == Identical {
		return c // it needs no judge, and would pass for agreement of the two
	}
	if v.first.MeaningMatch != nil {
		c.First, c.Probability = v.first.MeaningMatch, probabilityOf(v.first)
	}
	return c
}

// measured sums the cases up. So many more labels have no case.
func (r *runner) measured(cases []agreement.Case, missing int) *Measured {
	var pairs []agreement.Pair
	var both []agreement.Case
	for _, c := range cases {
		if c.Strong == nil {
			continue
		}
		pairs = append(pairs, agreement.Pair{Cluster: c.Cluster, Human: c.Human, Judge: *c.Strong, Kind: c.Kind})
		if c.First != nil {
			both = append(both, c)
		}
	}
	all := len(cases) + missing
	m := &Measured{Report: agreement.Measure(pairs, all-len(pairs), agreement.Rounds, agreement.Seed)}
	if r.first == nil || len(both) == 0 {
		return m
	}
	two := agreement.Calibrate(both, all-len(both), r.Wanted)
	strong, first := r.client.Usage(), r.first.client.Usage()
	two.Tokens = [2]int64{strong.PromptTokens + strong.CompletionTokens, first.PromptTokens + first.CompletionTokens}
	m.Two = &two
	return m
}
