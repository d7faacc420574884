package endpoint

import "testing"

// Every family's thoughts are told from the answer, also where a mark is cut.
func TestBegun(t *testing.T) {
	for text, want := range map[string]bool{
		"":                                 false,
		" \n":                              false,
		"True":                             true,
		"<think>\nHm, the":                 false,
		"<think":                           false,
		"<think>Hm</think>":                false,
		"<think>Hm</think>\nTrue":          true,
		"Hm</think>True":                   true,
		"<thought>so":                      false,
		"<thought>so</thought> {":          true,
		"<seed:think>so":                   false,
		"<seed:think>so</seed:think>1":     true,
		"<reasoning>so":                    false,
		"[THINK]so":                        false,
		"[THINK]so[/THINK]0":               true,
		"◁think▷so":                        false,
		"◁think▷so◁/think▷yes":             true,
		"<|channel|>analysis<|message|>so": false,
		"<|channel|>analysis<|message|>so<|end|><|start|>assistant<|channel|>final<|message|>True": true,
		"<thinker> is a word": true,
	} {
		if got := Begun(text); got != want {
			t.Errorf("%q: %t, want %t", text, got, want)
		}
	}
}
