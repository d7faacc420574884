package judge

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"hash"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"tokenfork/internal/job"
)

// hasher identifies questions: what is asked of whom. Questions of a job begin
// alike, and that part is hashed once. It is safe for concurrent use.
type hasher struct {
	judging Judging
	head    atomic.Pointer[hashedHead]
	places  sync.Pool // of *place
}

// hashedHead is what questions begin with, hashed.
type hashedHead struct {
	text  string
	state hash.Cloner
}

// place is where a question is written to be hashed.
type place struct{ b, sum []byte }

// hash is the sha256 of the JSON array of prompt hash, judge, shown text and both
// id lists. The text is in two, at the end of a line.
func (h *hasher) hash(q *Question, head, rest string) (string, error) {
	state, err := h.begin(head)
	if err != nil {
		return "", err
	}
	p, _ := h.places.Get().(*place)
	if p == nil {
		p = &place{}
	}
	defer h.places.Put(p)
	p.b = append(appendJSON(p.b[:0], rest), '"')
	for _, side := range job.Sides {
		p.b = appendIDs(append(p.b, ','), q.Forks[side].IDs)
	}
	p.b = append(p.b, ']')
	state.Write(p.b)
	p.sum = state.Sum(p.sum[:0])
	return hex.EncodeToString(p.sum), nil
}

// begin hashes what comes before the rest.
func (h *hasher) begin(head string) (hash.Hash, error) {
	p := h.head.Load()
	if p == nil || p.text != head {
		p = &hashedHead{head, h.start(head).(hash.Cloner)}
		h.head.Store(p)
	}
	return p.state.Clone()
}

// start hashes what comes before the shown text, and its head.
func (h *hasher) start(shown string) hash.Hash {
	state := sha256.New()
	b := append(appendJSON([]byte(`["`), h.judging.PromptHash), `","`...)
	b = append(appendJSON(b, h.judging.Model), `","`...)
	state.Write(appendJSON(b, shown))
	return state
}

// appendJSON appends the inside of the JSON string that encoding/json makes of s.
func appendJSON(dst []byte, s string) []byte {
	for s != "" {
		n := plainLen(s)
		dst = append(dst, s[:n]...)
		s = s[n:]
		if s != "" && short[s[0]] != 0 {
			dst, s = append(dst, '\\', short[s[0]]), s[1:]
			continue
		}
		for n = 0; n < len(s) && !asItIs[s[n]]; {
			n++
		}
		if n > 0 {
			b, err := json.Marshal(s[:n])
			if err != nil {
				panic(err) // strings always encode
			}
			dst = append(dst, b[1:len(b)-1]...)
			s = s[n:]
		}
	}
	return dst
}

// plainLen is how many bytes s begins with that need no escape: eight at a time.
func plainLen(s string) (n int) {
	const each, high = 0x0101010101010101, 0x8080808080808080
	b := unsafe.Slice(unsafe.StringData(s), len(s))
	for ; n+8 <= len(b); n += 8 {
		x := binary.LittleEndian.Uint64(b[n:])
		// Where all eight are ASCII, a difference has its high bit set for what is looked for.
		angle, quote := (x|2*each)^'>'*each, (x|4*each)^'&'*each // < and > differ in one bit, so do " and &
		back, del := x^'\\'*each, x^0x7f*each
		if (x|(x-' '*each)|(angle-each)|(quote-each)|(back-each)|(del-each))&high != 0 {
			break
		}
	}
	for n < len(s) && asItIs[s[n]] {
		n++
	}
	return n
}

// short are the second characters of common escapes.
var short = [256]byte{'\n': 'n', '\t': 't', '\r': 'r', '"': '"', '\\': '\\'}

// asItIs are the characters that need no escape.
var asItIs = func() (plain [256]bool) {
	for b := ' '; b < 0x7f; b++ {
		plain[b] = !strings.ContainsRune(`"\<>&`, b)
	}
	return plain
}()

func appendIDs(dst []byte, ids []int32) []byte {
	if ids == nil {
		return append(dst, "null"...)
	}
	dst = append(dst, '[')
	for i, id := range ids {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = strconv.AppendInt(dst, int64(id), 10)
	}
	return append(dst, ']')
}
