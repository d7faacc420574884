package judge

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"tokenfork/internal/failure"
	"tokenfork/judge/endpoint"
)

func distinct(i int) *Question {
	q := example()
	q.Start = fmt.Sprint("We", i)
	return q
}

// A judge whose first answers are all of no use is asked nothing more.
func TestUselessJudgeStops(t *testing.T) {
	for name, c := range map[string]struct {
		reply      *endpoint.Reply
		err        error
		says, hint string
		most       int // requests
	}{
		"prose":        {&endpoint.Reply{Text: "Both are fine."}, nil, "malformed: no verdict in it; it said: Both are fine.", "--judge-prompt", 58},
		"thoughts":     {&endpoint.Reply{Reasoning: "reasoning_content"}, nil, "all of it is in reasoning_content", "reasoning parser", 58},
		"cut":          {&endpoint.Reply{Text: "{", Cut: true}, nil, "cut at its limit", "--judge-max-tokens", 40},
		"never so far": {&endpoint.Reply{Text: "<think>Hm", Cut: true}, nil, "cut at its limit", "enable_thinking", 80},
		"rejected":     {nil, &endpoint.Error{Class: endpoint.Rejected, Message: "400: no"}, "400: no", "--judge-body", 20},
	} {
		j, f := newTestJudge(t, nil, func(int, endpoint.Request) (*endpoint.Reply, error) { return c.reply, c.err })
		var err error
		for i := 0; err == nil && i < 100; i++ {
			_, err = j.Ask(t.Context(), distinct(i))
		}
		if failure.Code(err) != failure.Refused || !strings.Contains(err.Error(), c.says) || !strings.Contains(failure.Hint(err), c.hint) {
			t.Errorf("%s: got %v, hint %s", name, err, failure.Hint(err))
		}
		if len(f.asked) > c.most {
			t.Errorf("%s: asked %d times", name, len(f.asked))
		}
	}
}

// One answer that can be used, and it is the questions; so it is with what a
// filter says of them.
func TestSomeUselessAnswersDoNotStop(t *testing.T) {
	for name, answer := range map[string]func(n int) (*endpoint.Reply, error){
		"one is good": func(n int) (*endpoint.Reply, error) {
			if n == 3 {
				return says(true), nil
			}
			return &endpoint.Reply{Text: "?"}, nil
		},
		"filtered": func(int) (*endpoint.Reply, error) {
			return nil, &endpoint.Error{Class: endpoint.ContentFilter, Message: "no"}
		},
	} {
		j, _ := newTestJudge(t, nil, func(n int, _ endpoint.Request) (*endpoint.Reply, error) { return answer(n) })
		for i := range 60 {
			if _, err := j.Ask(t.Context(), distinct(i)); err != nil {
				t.Fatalf("%s: question %d: %v", name, i, err)
			}
		}
	}
}

// thinker thinks for so many tokens before it answers, in a window.
func thinker(thoughts, window int) func(int, endpoint.Request) (*endpoint.Reply, error) {
	return func(_ int, r endpoint.Request) (*endpoint.Reply, error) {
		if r.MaxTokens+100 > window {
			return nil, &endpoint.Error{Class: endpoint.ContextLength, Message: "too long"}
		}
		if r.MaxTokens < thoughts {
			return &endpoint.Reply{Text: "<think>Hm, {", Cut: true, Room: window - 100}, nil
		}
		return &endpoint.Reply{Text: `{"explanation":"e","key_differences":[],"meaning_match":true,"confidence":0.75}`}, nil
	}
}

// The limit that thoughts need is found once, and never beyond the window.
func TestRoomForThoughtsIsFound(t *testing.T) {
	for _, c := range []struct{ thoughts, window, first, next int }{
		{300, 1 << 20, 1, 1}, // as asked
		{5000, 1 << 20, 3, 1},
		{5000, 6000, 3, 1}, // 512, 2048, 5900
		{40_000, 1 << 20, 4, 4},
	} {
		j, f := newTestJudge(t, nil, thinker(c.thoughts, c.window))
		for i, want := range []int{c.first, c.next} {
			from := len(f.asked)
			v, err := j.Ask(t.Context(), distinct(i))
			if err != nil || len(f.asked)-from != want || (v.Error == nil) != (c.thoughts < mostThoughts) {
				t.Errorf("%+v: question %d: %v, %+v after %d askings", c, i, err, v, len(f.asked)-from)
			}
		}
	}
}

// What earlier questions needed may be too much for a longer one.
func TestRoomIsLoweredForALongQuestion(t *testing.T) {
	j, f := newTestJudge(t, nil, thinker(700, 3000))
	j.room.Store(8192)
	if v, err := j.Ask(t.Context(), example()); err != nil || v.Error != nil || len(f.asked) != 3 {
		t.Errorf("got %+v, %v after %d askings", v, err, len(f.asked))
	}
}

func TestUselessJudgeStopsAmongMany(t *testing.T) {
	j, f := newTestJudge(t, nil, func(int, endpoint.Request) (*endpoint.Reply, error) { return &endpoint.Reply{Text: "?"}, nil })
	var wg sync.WaitGroup
	var mu sync.Mutex
	var stopped error
	for i := range 8 {
		wg.Go(func() {
			for n := 0; ; n++ {
				if _, err := j.Ask(t.Context(), distinct(8*n+i)); err != nil {
					mu.Lock()
					stopped = errors.Join(stopped, err)
					mu.Unlock()
					return
				}
			}
		})
	}
	wg.Wait()
	if failure.Code(stopped) != failure.Refused || len(f.asked) > 3*(enoughUnusable+8) {
		t.Errorf("asked %d times, %v", len(f.asked), stopped)
	}
}
