package judge

import (
	"cmp"
	"context"
	"errors"
	"strings"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/judge/endpoint"
)

// First is the cheaper of two judges. It is asked first, for the verdict alone,
// and its verdict stands where it is sure enough.
type First struct {
	Judging Judging `json:"judging"`
	Below   float64 `json:"escalate_below"` // less probable verdicts are left to the other judge
}

// FirstOptions say who is asked first.
type FirstOptions struct {
	Model    string  // as Options.Model
	Identity string  // as Options.Identity
	Below    float64 // as First.Below
	Connect  func(ctx context.Context) (Backend, error)
}

// firstSettings are the first judge's: the same question, asked greedily for one word.
func firstSettings(s Settings) Settings {
	s.VerdictOnly, s.Votes, s.Swap, s.Temperature, s.Body = true, 1, false, new(float64), nil
	return s
}

// firstJudge is the first judge of a run.
type firstJudge struct {
	prompt *Prompt
	about  First
	client *endpoint.Client
	judge  *Judge
	unsure *memory // questions that were left to the other judge
}

func newFirst(o *Options) (*firstJudge, error) {
	if o.First == nil {
		return nil, nil
	}
	if o.Batch {
		return nil, failure.New(failure.Usage, "leave --batch out: the first judge's answers decide what the other is asked", "--batch with two judges")
	}
	s := firstSettings(o.Settings)
	p, err := LoadPrompt(s)
	return &firstJudge{prompt: p, unsure: newMemory(rememberedAnswers), about: First{Judging: Judging{Settings: s}, Below: o.First.Below}}, err
}

// named says who the first judge is.
func (f *firstJudge) named(model, identity string) {
	f.about.Judging.Format, f.about.Judging.Model, f.about.Judging.Identity = judgingFormat, model, identity
	f.about.Judging.PromptVersion, f.about.Judging.PromptHash = f.prompt.Version, f.prompt.Hash
}

// mayBe says whether nothing that is known of the first judge differs from one of a record.
func (f *firstJudge) mayBe(known *First) bool {
	mine := f.about.Judging
	return known != nil && known.Below == f.about.Below && known.Judging.PromptHash == mine.PromptHash &&
		(mine.Model == "" || mine.Model == known.Judging.Model) && (mine.Identity == "" || mine.Identity == known.Judging.Identity)
}

var firstFlags = strings.NewReplacer("TOKENFORK_JUDGE_KEY (or OPENAI_API_KEY, which is sent over https only)", "TOKENFORK_JUDGE_FIRST_KEY", "--judge-model", "--judge-first-model", "--judge,", "--judge-first,", "--judge ", "--judge-first ")

// ofFirst is an error of the first judge, whose flags have names of their own.
func ofFirst(err error) error {
	return failure.New(failure.Code(err), firstFlags.Replace(failure.Hint(err)), "the first judge: %w", err)
}

// dialFirst reaches the first judge, if there is one.
func (r *runner) dialFirst(ctx context.Context, cfg endpoint.Config) (err error) {
	f, o := r.first, r.Options.First
	cfg.Log = r.Log
	if f.client, err = endpoint.Open(ctx, cfg); err != nil {
		return ofFirst(err)
	}
	if err = f.client.Negotiate(ctx, f.prompt.request(f.about.Judging.Settings, "")); err != nil {
		return ofFirst(err)
	}
	if !f.client.GivesLogprobs() {
		return failure.New(failure.Refused, "use another server for it, or one judge", "the first judge %s gives no log probabilities, by which it is told where it is unsure", f.client.Describe())
	}
	f.named(cmp.Or(o.Model, f.client.Model()), cmp.Or(o.Identity, f.client.Identity()))
	f.judge = newJudge(f.prompt, f.about.Judging, f.client)
	return nil
}

// apart refuses two judges whose verdicts could not be told apart in the results.
func (r *runner) apart() error {
	if r.first != nil && r.first.about.Judging.Model == r.judging.Model && r.first.prompt.Hash == r.prompt.Hash {
		return failure.New(failure.Usage, "name another --judge-first-model, or leave --verdict-only out", "both judges are called %s and are asked alike", r.judging.Model)
	}
	return nil
}

// servers are a run's: the judge's, and the first judge's if there is one.
type servers struct {
	judge Backend
	first *Backend
}

func (r *runner) connect(ctx context.Context) (s servers, err error) {
	if s.judge, err = r.Connect(ctx); err != nil || r.first == nil {
		return s, err
	}
	first, err := r.Options.First.Connect(ctx)
	if err != nil {
		return s, errors.Join(err, s.close())
	}
	s.first = &first
	return s, nil
}

func (s servers) all() []Backend {
	if s.first == nil {
		return []Backend{s.judge}
	}
	return []Backend{s.judge, *s.first}
}

func (s servers) close() (err error) {
	for _, one := range s.all() {
		if one.Close != nil {
			err = errors.Join(err, one.Close())
		}
	}
	return err
}

// decide gives the verdict on a question: the first judge's where it is sure.
func (r *runner) decide(ctx context.Context, q *Question) (job.Verdict, error) {
	if r.first == nil {
		return r.judge.Ask(ctx, q)
	}
	v, err := r.first.judge.Ask(ctx, q)
	if err != nil || sure(&v, r.first.about.Below) {
		return v, err
	}
	if r.first.unsure.isNew(v.Question) {
		r.escalated.Add(1)
	}
	return r.judge.Ask(ctx, q)
}

// sure says whether a verdict's probability is at least that. Whatever is no
// probability makes none sure.
func sure(v *job.Verdict, atLeast float64) bool { return v.Error == nil && probabilityOf(v) >= atLeast }

// probabilityOf is a verdict's probability by its token, 0 where that is not known.
func probabilityOf(v *job.Verdict) float64 {
	if v.Confidence == nil || v.ConfidenceSource == nil || *v.ConfidenceSource == Self {
		return 0
	}
	return *v.Confidence
}
