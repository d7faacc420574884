package tokenizer

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// decoder is the decoder of a tokenizer.json; which fields count depends on its type.
type decoder struct {
	Type     string    `json:"type"`
	Decoders []decoder `json:"decoders"` // Sequence
	Pattern  struct {  // Replace
		String string `json:"String"`
	} `json:"pattern"`
	Content       string `json:"content"`     // Replace, Strip
	Start         int    `json:"start"`       // Strip
	Replacement   string `json:"replacement"` // Metaspace
	PrependScheme string `json:"prepend_scheme"`
	AddPrefix     *bool  `json:"add_prefix_space"` // of files without a prepend_scheme
}

// decoding turns single tokens into bytes, one step of the file's decoder after the
// other. What a decoder does at the edges of a text alone is kept apart, since tokens
// are mostly decoded in the middle of one.
type decoding struct {
	before   []step // the steps before ByteFallback
	fallback bool   // tokens spelled <0x0A> are bytes
	after    []step
	level    bool // ByteLevel ends it
	fused    bool // tokens are joined: what comes now sees the whole text
}

// step changes a token; alone says that the token is the whole text.
type step func(token string, alone bool) string

// newDecoding compiles a decoder. One that cannot be done token by token is refused
// by name.
func newDecoding(d *decoder) (*decoding, error) {
	if d == nil {
		return nil, errors.New("no decoder: only " + knownDecoders + " are known")
	}
	all := d.flatten()
	if len(all) == 0 {
		return nil, errors.New("decoder Sequence is empty: only " + knownDecoders + " are known")
	}
	names := make([]string, len(all))
	for i, one := range all {
		names[i] = one.Type
	}
	c := new(decoding)
	for _, one := range all {
		if err := c.add(one); err != nil {
			return nil, fmt.Errorf("decoder %v: %w", names, err)
		}
	}
	return c, nil
}

const knownDecoders = "ByteLevel, ByteFallback, Fuse, Replace, Strip and Metaspace"

// flatten lists the decoders in the order they are applied.
func (d *decoder) flatten() []*decoder {
	if d.Type != "Sequence" {
		return []*decoder{d}
	}
	var all []*decoder
	for i := range d.Decoders {
		all = append(all, d.Decoders[i].flatten()...)
	}
	return all
}

func (c *decoding) add(d *decoder) error {
	if c.level && d.Type != "Fuse" {
		return fmt.Errorf("%s cannot follow ByteLevel", quote(d.Type))
	}
	switch d.Type {
	case "ByteLevel":
		c.level = true
	case "Fuse":
		c.fused = true
	case "ByteFallback":
		if c.fused || c.fallback {
			return errors.New("`ByteFallback` must be there once, before Fuse")
		}
		c.fallback, c.before, c.after = true, c.after, nil
	case "Replace":
		return c.replace(d)
	case "Strip":
		if !c.fused || utf8.RuneCountInString(d.Content) != 1 {
			return errors.New("`Strip` can only remove one kind of character, after Fuse")
		}
		c.after = append(c.after, func(token string, alone bool) string {
			for n := d.Start; alone && n > 0 && strings.HasPrefix(token, d.Content); n-- {
				token = token[len(d.Content):]
			}
			return token
		})
	case "Metaspace":
		return c.metaspace(d)
	default:
		return fmt.Errorf("%s cannot be decoded here, only %s", quote(d.Type), knownDecoders)
	}
	return nil
}

// replace wants a plain pattern, and of tokens already joined one that no two share.
func (c *decoding) replace(d *decoder) error {
	characters := utf8.RuneCountInString(d.Pattern.String)
	if characters == 0 || c.fused && characters > 1 {
		return errors.New("`Replace` can only replace a string, after Fuse one character")
	}
	c.after = append(c.after, func(token string, _ bool) string {
		return strings.ReplaceAll(token, d.Pattern.String, d.Content)
	})
	return nil
}

// metaspace writes its replacement as a space, in a text's first token as nothing.
func (c *decoding) metaspace(d *decoder) error {
	if c.fused || utf8.RuneCountInString(d.Replacement) != 1 {
		return errors.New("`Metaspace` must have a replacement of one character and come before Fuse")
	}
	first := d.PrependScheme != "never" && (d.AddPrefix == nil || *d.AddPrefix)
	c.after = append(c.after, func(token string, alone bool) string {
		space := " "
		if alone && first {
			space = ""
		}
		return strings.ReplaceAll(token, d.Replacement, space)
	})
	return nil
}

// token is what a token stands for, in the middle of a text or alone, and whether it
// is a byte of ByteFallback.
func (c *decoding) token(token string, alone bool) (decoded []byte, isByte bool) {
	for _, s := range c.before {
		token = s(token, alone)
	}
	if c.fallback && len(token) == len("<0x0A>") && strings.HasPrefix(token, "<0x") && token[5] == '>' {
		if b, err := strconv.ParseUint(token[3:5], 16, 8); err == nil {
			return []byte{byte(b)}, true
		}
	}
	for _, s := range c.after {
		token = s(token, alone)
	}
	if c.level {
		return byteLevel(token), false
	}
	return []byte(token), false
}
