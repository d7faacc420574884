package tokenizer

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"tokenfork/internal/failure"
)

const (
	// DefaultEnds are the characters that end a sentence unless the user sets others.
	DefaultEnds = ".!?\n"
	// R2REnds asks for the rule of R2R's data labelling in place of characters.
	R2REnds = "r2r"

	// maxEndLength is the most code points an end token may have; longer ones that
	// end in an end character are mostly code.
	maxEndLength = 4
)

// Ends says at which token ids a sentence ends. It works without the tokenizer that
// it was made from, so that a manifest can carry it as JSON. It is immutable and safe
// for concurrent use.
type Ends struct {
	spec     string
	rules    idSet // by the end characters, and <think>, </think>
	eos      idSet
	all      idSet
	decimals *decimals
}

// NewEnds works out the sentence ends of t: (i) tokens whose text, of at most 4 code
// points, ends in an end character, (ii) the eos ids of the model, (iii) added tokens
// spelled <think> or </think>. The spec is R2REnds or a string of end characters, see
// ParseEnds. With decimals, End asks for a look ahead at a "." after a digit.
func NewEnds(t *Tokenizer, spec string, eos []int32, decimals bool) (*Ends, error) {
	spec, err := ParseEnds(spec)
	if err != nil {
		return nil, err
	}
	for _, id := range eos {
		if id < 0 || id > maxID {
			return nil, failure.New(failure.Refused, "correct generation_config.json or config.json of the model",
				"work out sentence ends: eos_token_id %d is not between 0 and %d", id, maxID)
		}
	}
	ids := t.idsByRule(spec)
	e := &Ends{spec: spec}
	if decimals {
		e.decimals = newDecimals(t, ids)
	}
	for _, tag := range []string{"<think>", "</think>"} {
		if id, ok := t.ID(tag); ok {
			ids = append(ids, id)
		}
	}
	e.set(ids, eos)
	return e, nil
}

func (e *Ends) set(rules, eos []int32) {
	e.rules, e.eos = newIDSet(rules), newIDSet(eos)
	e.all = newIDSet(slices.Concat(rules, eos))
}

// idsByRule are the ends by rule (i), rising.
func (t *Tokenizer) idsByRule(spec string) []int32 {
	var ids []int32
	for id := range int32(t.Size()) {
		if spec == R2REnds && int(id) < t.vocab && endsAsR2R(t.alone(id)) ||
			spec != R2REnds && endsIn(t.Decode([]int32{id}), spec) {
			ids = append(ids, id)
		}
	}
	return ids
}

// ParseEnds turns sentence ends as a command line gives them into the form that is
// kept: the plain characters, or R2REnds. Spaces separate and are left out; \n and \t
// may be written as such. Letters and digits are refused, being mistakes.
func ParseEnds(spec string) (string, error) {
	if spec == R2REnds {
		return spec, nil
	}
	plain := strings.NewReplacer(`\n`, "\n", `\t`, "\t", " ", "").Replace(spec)
	if plain == "" {
		return "", badEnds("no character is given")
	}
	for _, c := range plain {
		if c == '\\' || c == '\uFFFD' || unicode.IsLetter(c) || unicode.IsDigit(c) {
			return "", badEnds("%q in %q cannot end a sentence", c, spec)
		}
	}
	return plain, nil
}

func badEnds(format string, args ...any) error {
	return failure.New(failure.Usage, `give the characters, for example --ends '.!?\n', or --ends r2r`,
		"read sentence ends: "+format, args...)
}

// endsIn is the plain rule: at most 4 code points, the last one of the characters.
func endsIn(text, characters string) bool {
	last, _ := utf8.DecodeLastRuneInString(text)
	return text != "" && utf8.RuneCountInString(text) <= maxEndLength && strings.ContainsRune(characters, last)
}

// R2R's rule, from its r2r/data/utils/convert_eos_tokens.py. Of the model's own
// vocabulary, not the added tokens, these end a sentence: tokens of at most 4 code
// points that end in one of . ! ? 。 ！ ？ or a newline, except
//   - those with a colon, : or ：, anywhere;
//   - those with an opening bracket ( [ { < （ 【 《 〈 「 『 that its closing one does
//     not follow, or with a closing one too many beside an opening one ("())." is out,
//     ")." is in);
//   - those with a straight quote " or ': it counts as opening, and the last one is
//     never followed by its like.
//
// The rule looks at the token decoded alone, without the leading space that some
// tokenizers then leave out, so it is a set of ids like any other. R2R decodes through
// transformers, which for a few models strips spaces before punctuation; here the text
// is taken as it is.
const (
	r2rEnds  = ".!?。！？\n"
	r2rOpen  = "([{<（【《〈「『"
	r2rClose = ")]}>）】》〉」』"
	r2rNever = ":：\"'"
)

func endsAsR2R(text string) bool {
	return endsIn(text, r2rEnds) && !strings.ContainsAny(text, r2rNever) && bracketsClose(text)
}

// bracketsClose says whether each opening bracket is followed by its closing one and,
// if there is any, as many close as open.
func bracketsClose(text string) bool {
	opened, closed := 0, 0
	for i, c := range text {
		if strings.ContainsRune(r2rClose, c) {
			closed++
		}
		if !strings.ContainsRune(r2rOpen, c) {
			continue
		}
		opened++
		if !strings.ContainsRune(text[i:], closing(c)) {
			return false
		}
	}
	return opened == 0 || opened == closed
}

// closing is the bracket that closes open.
func closing(open rune) rune {
	nth := slices.Index([]rune(r2rOpen), open)
	return []rune(r2rClose)[nth]
}

// IsEnd says whether a sentence ends with id, eos included.
func (e *Ends) IsEnd(id int32) bool { return e.all.has(id) }

// IsEOS says whether id is an end-of-text id of the model. It may be a sentence end
// by the other rules too.
func (e *Ends) IsEOS(id int32) bool { return e.eos.has(id) }

// IDs are all ids at which a server must stop, eos included, rising.
func (e *Ends) IDs() []int32 { return slices.Clone(e.all.sorted) }

// Spec is the rule the ends were made by, as ParseEnds gives it.
func (e *Ends) Spec() string { return e.spec }

type endsJSON struct {
	Spec     string    `json:"spec"`
	IDs      idSet     `json:"ids"`
	EOS      idSet     `json:"eos"`
	Decimals *decimals `json:"decimals,omitempty"`
}

// MarshalJSON writes the same bytes for the same ends.
func (e Ends) MarshalJSON() ([]byte, error) {
	return json.Marshal(endsJSON{e.spec, e.rules, e.eos, e.decimals})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (e *Ends) UnmarshalJSON(data []byte) error {
	var read endsJSON
	if err := json.Unmarshal(data, &read); err != nil {
		return fmt.Errorf("read sentence ends: %w", err)
	}
	*e = Ends{spec: read.Spec, decimals: read.Decimals}
	e.set(read.IDs.sorted, read.EOS.sorted)
	return nil
}
