package tokenizer

import "strings"

// byteOf is the byte-level alphabet backwards: the printable bytes of Latin-1 stand
// for themselves, the others, in order, are written as the characters from U+0100 on.
var byteOf = func() map[rune]byte {
	alphabet := make(map[rune]byte, 256)
	next := rune(0x100)
	for b := range rune(256) {
		if b >= '!' && b <= '~' || b >= 0xa1 && b <= 0xac || b >= 0xae {
			alphabet[b] = byte(b)
			continue
		}
		alphabet[next] = byte(b)
		next++
	}
	return alphabet
}()

// byteLevel decodes a token. One that holds any character outside the alphabet is
// taken literally as a whole, as the library does; that is how added tokens such as
// "<｜User｜>" stay what they are.
func byteLevel(token string) []byte {
	decoded := make([]byte, 0, len(token))
	for _, c := range token {
		b, ok := byteOf[c]
		if !ok {
			return []byte(token)
		}
		decoded = append(decoded, b)
	}
	return decoded
}

// lossyUTF8 replaces what is not valid UTF-8 by U+FFFD, one for each maximal part of
// a character as Rust does it (Unicode 15, section 3.9). Go's own conversions give
// one for each byte, so the three bytes of half an emoji would become three.
func lossyUTF8(b []byte) string {
	var text strings.Builder
	text.Grow(len(b))
	for len(b) > 0 {
		n, ok := character(b)
		if ok {
			text.Write(b[:n])
		} else {
			text.WriteRune('\uFFFD')
		}
		b = b[n:]
	}
	return text.String()
}

// character is the length of the UTF-8 character b begins with, or false and the
// length of the bytes that one U+FFFD stands for.
func character(b []byte) (n int, ok bool) {
	length, low, high := lead(b[0])
	for n = 1; n < length; n++ {
		if n == len(b) || b[n] < low || b[n] > high {
			return n, false
		}
		low, high = 0x80, 0xbf
	}
	return n, length > 0
}

// lead is the length of a character that begins with b and the range of its second
// byte; the length is 0 if none does.
func lead(b byte) (length int, low, high byte) {
	switch {
	case b < 0x80:
		return 1, 0, 0
	case b < 0xc2 || b > 0xf4:
		return 0, 0, 0
	case b < 0xe0:
		return 2, 0x80, 0xbf
	case b == 0xe0:
		return 3, 0xa0, 0xbf
	case b == 0xed: // no surrogates
		return 3, 0x80, 0x9f
	case b < 0xf0:
		return 3, 0x80, 0xbf
	case b == 0xf0:
		return 4, 0x90, 0xbf
	case b == 0xf4:
		return 4, 0x80, 0x8f
	}
	return 4, 0x80, 0xbf
}
