package tokenizer

import "unicode/utf8"

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

// AppendText appends bytes that tokens stand for as text: what is not valid UTF-8
// becomes U+FFFD, one for each maximal part of a character as Rust does it (Unicode
// 15, section 3.9). Go's own conversions give one for each byte, so the three bytes
// of half an emoji would become three.
func AppendText(dst, b []byte) []byte {
	for {
		valid := 0
		for valid < len(b) {
			r, n := utf8.DecodeRune(b[valid:])
			if r == utf8.RuneError && n == 1 {
				break
			}
			valid += n
		}
		dst = append(dst, b[:valid]...)
		if b = b[valid:]; len(b) == 0 {
			return dst
		}
		b = b[invalid(b):]
		dst = append(dst, "\uFFFD"...)
	}
}

// invalid is how many bytes of b, which begins with no character, one U+FFFD stands for.
func invalid(b []byte) int {
	length, low, high := lead(b[0])
	n := 1
	for ; n < min(length, len(b)) && low <= b[n] && b[n] <= high; n++ {
		low, high = 0x80, 0xbf
	}
	return n
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
