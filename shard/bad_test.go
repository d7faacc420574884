package shard

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/table"
)

const (
	r2rHead   = "row_id,data_id,token_id,real_token,token_type,SLM_predictions,LLM_predictions\n"
	studyHead = "row_id,1.5_token_id,1.5_sentence_id,1.5_real_token,1.5_predictions,1.5_entropy,1.5_AU,1.5_EU,32.0_token_id,32.0_sentence_id,32.0_real_token,32.0_predictions,32.0_entropy,32.0_AU,32.0_EU\n"
	goodR2R   = "0,5,0,10,1,11,11\n1,5,1,11,1,12,13\n2,5,2,12,1,14,14\n"
)

// small plans a small table without looking for its alignment.
func small(t *testing.T, content string) Options {
	o := options(t, 500, inMemory("t.csv", content))
	o.Settings.Alignment = "next"
	return o
}

func TestBadInput(t *testing.T) {
	for name, c := range map[string]struct {
		table string
		want  string
		hint  string
	}{
		"missing column": {
			strings.Replace(r2rHead, "real_token", "real_tokens", 1) + goodR2R,
			`t.csv: column "real_token" is missing; the table has row_id, data_id, token_id, real_tokens, token_type, SLM_predictions, LLM_predictions`, `is "real_tokens" meant? Rename it`},
		"no such model": {
			strings.ReplaceAll(studyHead, "32.0_", "70.0_") + "0,0,5,10,11,1,1,1,0,5,10,11,1,1,1\n",
			"t.csv: no model 32.0 in the table; it has 1.5, 70.0", "--reference NAME"},
		"no predictions":     {"a,b\n1,2\n", "t.csv: no column *_predictions; the table has a, b", "the study layout"},
		"column twice":       {strings.Replace(r2rHead, "row_id", "data_id", 1) + goodR2R, `column "row_id" is missing`, ""},
		"needed twice":       {strings.Replace(r2rHead, "\n", ",real_token\n", 1) + goodR2R, `duplicate column "real_token"`, "remove one"},
		"unparsable cell":    {r2rHead + goodR2R + "3,5,3,abc,1,2,2\n", `t.csv:5: column real_token: "abc" is not a number`, "--on-bad-text skip"},
		"float id":           {r2rHead + goodR2R + "3,5,3,12.5,1,2,2\n", `t.csv:5: column real_token: "12.5" is not a whole number`, ""},
		"negative id":        {r2rHead + goodR2R + "3,5,3,-3,1,2,2\n", `t.csv:5: column real_token: "-3" is negative`, ""},
		"large id":           {r2rHead + goodR2R + "9007199254740992,5,3,3,1,2,2\n", `t.csv:5: column row_id: "9007199254740992" is 2^53 or more`, ""},
		"blank real token":   {r2rHead + goodR2R + "3,5,3,,1,2,2\n", "t.csv:5: column real_token: is blank", ""},
		"blank row id":       {r2rHead + goodR2R + ",5,3,1,1,2,2\n", "t.csv:5: column row_id: is blank", ""},
		"blank position":     {r2rHead + goodR2R + "3,5,,1,1,2,2\n", "t.csv:5: column token_id: is blank", ""},
		"blank text":         {r2rHead + goodR2R + "3,,3,1,1,2,2\n", "t.csv:5: column data_id: is blank", "correct the row"},
		"text among numbers": {r2rHead + goodR2R + "3,b7,3,1,1,2,2\n", `t.csv:5: column data_id: "b7" is not a number`, "--sentence-id-type string"},
		"split text":         {r2rHead + goodR2R + "3,6,0,1,1,2,2\n4,5,3,1,1,2,2\n", "t.csv:6: text 5 goes on here, after other texts; it began at t.csv:2", "sort the table by sentence_id"},
		"interleaved":        {r2rHead + "0,5,0,10,1,11,11\n1,6,0,10,1,11,11\n2,5,1,11,1,12,12\n", "t.csv:4: text 5 goes on here", ""},
		"duplicate position": {r2rHead + goodR2R + "3,5,2,1,1,2,2\n", "t.csv:5: column token_id: duplicate position 2", ""},
		"missing position":   {r2rHead + goodR2R + "3,5,5,1,1,2,2\n", "t.csv:5: column token_id: position 5 follows 2: 2 missing", ""},
		"falling position":   {r2rHead + goodR2R + "3,5,1,1,1,2,2\n", "t.csv:5: column token_id: position 1 comes after 2", ""},
		"row of commas":      {r2rHead + goodR2R + ",,,,,,\n", "t.csv:5: column data_id: is blank", "correct the row"},
		"types below header": {r2rHead + "int,int,int,int,int,int,int\n" + goodR2R, `t.csv:2: column row_id: "int" is not a number`, ""},
		"a second text":      {r2rHead + goodR2R + "3,6,0,1,1,2,2\n4,5,0,1,1,2,2\n", "t.csv:6: a second text 5 begins here; the first began at t.csv:2", "an id of its own"},
		"other case":         {strings.Replace(r2rHead, "row_id", "ROW_ID", 1) + goodR2R, `column "row_id" is missing`, `is "ROW_ID" meant?`},
		"not a used column":  {strings.Replace(studyHead, "32.0_AU", "32.0_au", 1) + "0,0,5,10,11,1,1,1,0,5,10,11,1,1,1\n", `column "32.0_AU" is missing`, `is "32.0_au" meant?`},
		"row ends in comma":  {r2rHead + "0,5,0,10,1,11,11,\n", "t.csv:2: 8 fields, the header has 7", "ends with a delimiter"},
		"late start":         {r2rHead + "0,5,2,10,1,11,11\n", "t.csv:2: text 5 begins at position 2, want 0 or 1", ""},
		"two numberings":     {r2rHead + goodR2R + "3,6,1,10,1,11,11\n", "t.csv:5: text 6 begins at position 1, most others at 0", ""},
		"falling row_id":     {r2rHead + goodR2R + "2,5,3,1,1,2,2\n", "t.csv:5: column row_id: row_id 2 comes after 2: it must rise within a text", ""},
		"unequal real tokens": {studyHead + "0,0,5,10,11,1,1,1,0,5,10,11,1,1,1\n1,1,5,11,12,1,1,1,1,5,13,12,1,1,1\n",
			`t.csv:3: column 32.0_real_token: "13" differs between the two models: column 1.5_real_token has "11"`, ""},
		"unequal texts":      {studyHead + "0,0,5,10,11,1,1,1,0,6,10,11,1,1,1\n", `t.csv:2: column 32.0_sentence_id: "6" differs between the two models: column 1.5_sentence_id has "5"`, ""},
		"beyond vocabulary":  {r2rHead + goodR2R + "3,5,3,510,1,2,2\n", `t.csv:5: column real_token: "510" is outside the vocabulary of 510 ids`, ""},
		"prediction beyond":  {r2rHead + goodR2R + "3,5,3,1,1,2,9999\n", `t.csv:5: column LLM_predictions: "9999" is outside the vocabulary of 510 ids`, ""},
		"bad measure":        {studyHead + "0,0,5,10,11,high,1,1,0,5,10,11,1,1,1\n", `t.csv:2: column 1.5_entropy: "high" is not a number`, ""},
		"empty file":         {"", "t.csv is empty", ""},
		"header only":        {r2rHead, "t.csv has a header but no rows", ""},
		"few fields":         {r2rHead + goodR2R + "3,5,3,1\n", "t.csv:5: 4 fields, the header has 7", "correct the row"},
		"header again":       {r2rHead + goodR2R + r2rHead + goodR2R, `t.csv:5: column row_id: "row_id" is the column's name: the header stands here again`, "remove the line"},
		"Excel's first line": {"sep=,\n" + r2rHead + goodR2R, `the first line is "sep=`, "tail -n +2"},
		"a comment first":    {"# made today\n" + r2rHead + goodR2R, `the first line is "# made today"`, "tail -n +2"},
		"spaces in header":   {strings.ReplaceAll(r2rHead, ",", ", ") + goodR2R, `the column " data_id" has white space around its name`, "without spaces"},
		"no such column":     {strings.Replace(r2rHead, "real_token", "zzzzzzzzzzzz", 1) + goodR2R, `column "real_token" is missing`, ""},
		"almost token_type":  {strings.Replace(r2rHead, "token_type", "Token_type", 1) + goodR2R, `is the column "Token_type" meant to be "token_type"?`, "rename it"},
		"many fields":        {r2rHead + "0,5,0,10,1,11,11,\n", "t.csv:2: 8 fields, the header has 7", ""},
		"cut in two":         {r2rHead + goodR2R + "3,5,3\n,1,1,2,2\n", "t.csv:5: 3 fields, the header has 7", ""},
		"wrong delimiter":    {strings.ReplaceAll(r2rHead+goodR2R, ",", ";"), `t.csv: the header is one column with ";" in it: another delimiter`, "--delimiter"},
		"UTF-16":             {"\xff\xfer\x00o\x00w\x00\n\x00", "t.csv is text in UTF-16, which is not read", "UTF-8"},
		"open quote":         {r2rHead + goodR2R + "3,5,\"3,1,1,2,2\n", `t.csv:5: extraneous or missing " in quoted-field`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			o := small(t, c.table)
			_, _, err := Plan(t.Context(), o)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v\nwant %s", err, c.want)
			}
			if failure.Code(err) != failure.Refused {
				t.Errorf("exit code %d", failure.Code(err))
			}
			if h := failure.Hint(err); h == "" || !strings.Contains(h, c.hint) {
				t.Errorf("hint %q, want %q", h, c.hint)
			}
			empty(t, o)
		})
	}
}

// empty wants nothing in the store: what is refused leaves nothing behind.
func empty(t *testing.T, o Options) {
	t.Helper()
	for object, err := range o.Store.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		t.Errorf("%s was left behind", object.Key)
	}
}

func TestTruncated(t *testing.T) {
	for name, open := range map[string]func(io.Writer) (io.WriteCloser, error){
		"gzip": func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil },
		"zstd": func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) },
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			w, err := open(&b)
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(w, r2rHead+goodR2R)
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			o := small(t, b.String()[:b.Len()-9])
			_, _, err = Plan(t.Context(), o)
			if err == nil || !strings.Contains(err.Error(), "read t.csv: the compressed data is damaged or cut off") || failure.Code(err) != failure.Refused {
				t.Errorf("got %v", err)
			}
			empty(t, o)
		})
	}
}

// A damaged text at the head does not decide for the others where positions start.
func TestFirstPositionOfMost(t *testing.T) {
	shifted := func(id, row, first string) string { return row + "," + id + "," + first + ",10,1,11,11\n" }
	good := "7,7,0,10,1,11,11\n8,7,1,11,1,12,13\n9,7,2,12,1,14,14\n"
	o := small(t, r2rHead+shifted("4", "1", "1")+good+shifted("9", "20", "0")+shifted("8", "21", "0"))
	o.Settings.OnBadText = "skip"
	j, e, err := Plan(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(j.Skipped) != 1 || j.Skipped[0].Reason != "t.csv:2: text 4 begins at position 1, most others at 0" || e.Texts != 3 || j.Settings.FirstPosition != 0 {
		t.Errorf("%d texts, first position %d, skipped %+v", e.Texts, j.Settings.FirstPosition, j.Skipped)
	}
}

func TestRowIDsOfTwoTexts(t *testing.T) {
	for _, test := range []struct {
		rows, want string
	}{
		{"3,6,0,10,1,11,11\n9,6,1,11,1,12,12\n", ""},                                                  // rising
		{"2,6,0,10,1,11,11\n", "the row_id 2 is in two texts, 5 (from t.csv:2) and 6 (from t.csv:5)"}, // the last of one, the first of the other
		{"0,6,0,10,1,11,11\n9,6,1,11,1,12,12\n", "the row_id 0 is in"},                                // counted from 0 in each text
		{"5,6,0,10,1,11,11\n5,7,0,11,1,12,12\n", "two texts, 6 (from t.csv:5) and 7 (from t.csv:6)"},  // of one row each
		{"7,6,0,10,1,11,11\n4,7,0,11,1,12,12\n", ""},                                                  // falling from text to text
		{"1,6,0,10,1,11,11\n9,6,1,11,1,12,12\n", "whether one is in two"},                             // mixed: not known
	} {
		var log bytes.Buffer
		o := small(t, r2rHead+goodR2R+test.rows)
		o.Logger = slog.New(slog.NewTextHandler(&log, nil))
		_, _, err := Plan(t.Context(), o)
		said := log.String()
		if err != nil {
			said = err.Error()
		}
		if test.want == "" && (err != nil || strings.Contains(said, "row_ids")) || !strings.Contains(said, test.want) ||
			strings.HasPrefix(test.want, "the row_id") && failure.Code(err) != failure.Refused {
			t.Errorf("%q: %s, want %q", test.rows, said, test.want)
		}
	}
}

func TestSkipBadTexts(t *testing.T) {
	bad := "3,6,0,1,1,2,2\n4,6,1,x,1,2,2\n5,6,2,1,1,2,2\n" + // a bad cell
		"6,7,0,1,1,2,2\n7,7,2,1,1,2,2\n" + // a gap
		"8,8,3,1,1,2,2\n" // a late start
	o := small(t, r2rHead+goodR2R+bad+"9,9,0,10,1,11,11\n10,9,1,11,1,12,13\n11,9,2,12,1,14,14\n")
	o.Settings.OnBadText = "skip"
	j, e, err := Plan(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	want := []job.Skipped{
		{SentenceID: "6", Line: 6, Reason: `t.csv:6: column real_token: "x" is not a number`},
		{SentenceID: "7", Line: 9, Reason: "t.csv:9: column token_id: position 2 follows 0: 1 missing"},
		{SentenceID: "8", Line: 10, Reason: "t.csv:10: text 8 begins at position 3, most others at 0"},
	}
	if !slices.Equal(j.Skipped, want) {
		t.Errorf("skipped %+v", j.Skipped)
	}
	if e.Mismatches != 2 || e.Texts != 2 || e.Rows != 12 {
		t.Errorf("%+v", e)
	}
}

// TestDisorderIsNotAlignment has heads that seem to have no alignment since their texts are bad.
func TestDisorderIsNotAlignment(t *testing.T) {
	for name, c := range map[string]struct{ table, policy, want string }{
		"shuffled":     {r2rHead + "2,5,2,12,1,14,14\n0,5,0,10,1,11,11\n1,5,1,11,1,12,13\n", "stop", "t.csv:2: text 5 begins at position 2"},
		"quoted badly": {r2rHead + "0, \"5\",0,10,1,11,11\n", "stop", `t.csv:2: bare "`},
		"all skipped":  {r2rHead + "0,5,0,x,1,11,11\n", "skip", `1 texts at the head of the table are bad; the first: t.csv:2: column real_token: "x" is not a number`},
		"all blank":    {r2rHead + "0,5,0,10,1,11,\n", "stop", "they are all blank"},
	} {
		o := options(t, 500, inMemory("t.csv", c.table))
		o.Settings.OnBadText = c.policy
		_, _, err := Plan(t.Context(), o)
		if err == nil || !strings.Contains(err.Error(), c.want) || failure.Code(err) != failure.Refused {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
		empty(t, o)
	}
}

// TestFilesInDisorder names the way out, and the file in which a text began.
func TestFilesInDisorder(t *testing.T) {
	one, two, three := goodR2R[:len(goodR2R)-len("2,5,2,12,1,14,14\n")], "2,5,2,12,1,14,14\n3,6,0,10,1,11,11\n", "4,6,1,11,1,12,13\n"
	for _, c := range []struct {
		files []table.Source
		want  string
	}{
		{[]table.Source{inMemory("p1", r2rHead+one), inMemory("p10", r2rHead+three), inMemory("p2", r2rHead+two)}, "p10:2: text 6 begins at position 1, most others at 0"},
		{[]table.Source{inMemory("p1", r2rHead+one), inMemory("p3", r2rHead+"9,7,0,10,1,11,11\n"), inMemory("p2", r2rHead+two)}, "p2:2: text 5 goes on here, after other texts; it began at p1:2"},
	} {
		o := options(t, 500, c.files...)
		o.Settings.Alignment = "next"
		_, _, err := Plan(t.Context(), o)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(failure.Hint(err), "in the order of their rows") {
			t.Errorf("%v (%s), want %s", err, failure.Hint(err), c.want)
		}
	}
}

func TestUnclearAlignment(t *testing.T) {
	o := options(t, 500, inMemory("t.csv", r2rHead+goodR2R))
	_, _, err := Plan(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), "cannot tell which position a row's predictions are for: 50.0 % of 2 are the next row's real token, 0.0 % of 3 their own row's") || !strings.Contains(failure.Hint(err), "--alignment next") {
		t.Errorf("got %v, hint %s", err, failure.Hint(err))
	}
	empty(t, o)
}

// TestAlignmentOfTheWholeTable has a head that reads one way and a table that reads the other.
func TestAlignmentOfTheWholeTable(t *testing.T) {
	var b strings.Builder
	b.WriteString(r2rHead)
	n := 0
	for text := range 400 {
		shift := 1
		if text >= 100 {
			shift = 0
		}
		for p := range 1000 {
			token := func(p int) int { return (p*p + 7*text) % 499 }
			writeRow(&b, n, text, p, token(p), 1, token(p+shift), token(p+shift))
			n++
		}
	}
	o := options(t, 500, inMemory("t.csv", b.String()))
	_, _, err := Plan(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), "the head of the table says --alignment next, the whole table does not") {
		t.Errorf("got %v", err)
	}
	empty(t, o)
}

func writeRow(b *strings.Builder, cells ...int) {
	for i, c := range cells {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(itoa(c))
	}
	b.WriteByte('\n')
}

func TestFilesOfDifferentKinds(t *testing.T) {
	o := options(t, 500, inMemory("a.csv", r2rHead+goodR2R), inMemory("b.csv", strings.Replace(r2rHead, ",LLM_predictions", "", 1)+"3,6,0,1,1,2\n"))
	o.Settings.Alignment, o.Settings.Trajectories = "next", job.Real
	_, _, err := Plan(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), "b.csv differs from a.csv: reference predictions in one of them only") {
		t.Errorf("got %v", err)
	}
}

func TestStopped(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	o := options(t, 500)
	o.Sources = []table.Source{{Name: "pipe", Open: func(context.Context) (io.ReadCloser, error) { return r, nil }}}
	go func() {
		io.WriteString(w, r2rHead+goodR2R)
		cancel() // and the pipe stays open
	}()
	if _, _, err := Plan(ctx, o); err == nil || !strings.Contains(err.Error(), context.Canceled.Error()) {
		t.Errorf("got %v", err)
	}
}
