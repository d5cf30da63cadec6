package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Bounds on the source. The configuration needs three levels of tables; the
// TOML library recurses, and keeps the whole path of every key as a string, so
// that a small hostile file could take all memory if it were not stopped before.
const (
	maxDepth = 8   // tables and lists in one another
	maxKey   = 128 // bytes of one part of a key
)

// errMalformed stops the scan of a source that is no TOML. It is never shown:
// the library, which reads the source afterwards, explains syntax better.
var errMalformed = errors.New("malformed TOML")

// Shown, with the line where the scan stopped.
var (
	errTooDeep = &ValueError{"tables or lists are nested too deeply", "no key of this file needs more than three levels"}
	errLongKey = &ValueError{"a key is too long", fmt.Sprintf("use at most %d bytes", maxKey)}
)

// scanner walks over TOML source. It takes syntax for granted wherever that
// does no harm, and stops at the first thing it cannot step over.
type scanner struct {
	src  string
	pos  int // next byte
	line int // of pos, counted from 1
	err  error
}

// scanLines finds the lines of all keys of a TOML source (TOML 1.1, as the
// library reads it). The error is errMalformed or a *ValueError; line is where
// the scan ended.
func scanLines(src string) (root *node, line int, err error) {
	s := &scanner{src: skipMark(src), line: 1}
	root = &node{line: 1}
	table := root
	for s.err == nil {
		s.skipBlank()
		switch s.peek() {
		case 0:
			return root, s.line, s.err
		case '[':
			table = s.header(root)
		default:
			s.keyValue(table)
		}
	}
	return root, s.line, s.err
}

// skipMark drops the byte order marks that the library drops.
func skipMark(src string) string {
	for _, mark := range []string{"\xff\xfe", "\xfe\xff", "\xef\xbb\xbf"} {
		if rest, ok := strings.CutPrefix(src, mark); ok {
			return rest
		}
	}
	return src
}

// peek is the next byte, or 0 at the end. A NUL byte, which no TOML holds, ends
// the scan just so.
func (s *scanner) peek() byte {
	if s.pos >= len(s.src) {
		return 0
	}
	return s.src[s.pos]
}

func (s *scanner) accept(c byte) bool {
	if s.peek() != c {
		return false
	}
	s.pos++
	return true
}

// expect steps over spaces and c; anything else ends the scan.
func (s *scanner) expect(c byte) bool {
	s.skipSpace()
	if s.err == nil && s.accept(c) {
		return true
	}
	s.malformed()
	return false
}

func (s *scanner) malformed() { s.fail(errMalformed) }

// fail ends the scan; the first reason counts.
func (s *scanner) fail(err error) {
	if s.err == nil {
		s.err = err
	}
}

func (s *scanner) skipSpace() {
	for s.peek() == ' ' || s.peek() == '\t' {
		s.pos++
	}
}

// skipBlank steps over spaces, ends of lines and comments.
func (s *scanner) skipBlank() {
	for {
		switch s.peek() {
		case ' ', '\t', '\r':
			s.pos++
		case '\n':
			s.pos++
			s.line++
		case '#':
			s.skipTo("\n")
		default:
			return
		}
	}
}

// skipTo stops before the first of the bytes given, or at the end.
func (s *scanner) skipTo(stop string) {
	i := strings.IndexAny(s.src[s.pos:], stop)
	if i < 0 {
		i = len(s.src) - s.pos
	}
	s.pos += i
}

// skipBare steps over a number, boolean or date.
func (s *scanner) skipBare() {
	start := s.pos
	s.skipTo(",]}#\n")
	if s.pos == start {
		s.malformed()
	}
}

// key reads a dotted key's parts.
func (s *scanner) key() []string {
	var parts []string
	for s.err == nil {
		s.skipSpace()
		part := s.keyPart()
		if len(part) > maxKey {
			s.fail(errLongKey)
		}
		parts = append(parts, part)
		s.skipSpace()
		if !s.accept('.') {
			break
		}
		if len(parts) == maxDepth {
			s.fail(errTooDeep)
		}
	}
	return parts
}

func (s *scanner) keyPart() string {
	start := s.pos
	switch s.peek() {
	case '"':
		s.skipQuoted('"')
		return unescape(s.src[start:s.pos])
	case '\'':
		s.skipQuoted('\'')
		return strings.Trim(s.src[start:s.pos], "'")
	}
	for isBareKey(s.peek()) {
		s.pos++
	}
	if s.pos == start {
		s.malformed()
	}
	return s.src[start:s.pos]
}

func isBareKey(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
}

// skipString steps over any of the four kinds of string.
func (s *scanner) skipString() {
	q := s.peek()
	if strings.HasPrefix(s.src[s.pos:], strings.Repeat(string(q), 3)) {
		s.pos += 3
		s.skipMultiline(q)
		return
	}
	s.skipQuoted(q)
}

// skipQuoted steps over a string on one line, its quotes included.
func (s *scanner) skipQuoted(q byte) {
	for s.pos++; s.pos < len(s.src); s.pos++ {
		switch c := s.src[s.pos]; {
		case c == q:
			s.pos++
			return
		case c == '\n':
			s.malformed()
			return
		case c == '\\' && q == '"':
			s.pos++
		}
	}
	s.pos = len(s.src)
	s.malformed()
}

// skipMultiline steps to behind the closing quotes. Up to two more quotes
// directly before those belong to the string.
func (s *scanner) skipMultiline(q byte) {
	run := 0 // quotes seen in a row
	for ; s.pos < len(s.src); s.pos++ {
		c := s.src[s.pos]
		if c == q {
			run++
			continue
		}
		if run >= 3 {
			return
		}
		run = 0
		if c == '\\' && q == '"' && s.pos+1 < len(s.src) {
			s.pos++
			c = s.src[s.pos]
		}
		if c == '\n' {
			s.line++
		}
	}
	if run < 3 {
		s.malformed()
	}
}

// unescape gives the text of a "quoted" key. An escape that is no escape stays
// as it is: the library refuses it.
func unescape(quoted string) string {
	s := strings.TrimSuffix(strings.TrimPrefix(quoted, `"`), `"`)
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		r, digits := escape(s[i:])
		b.WriteRune(r)
		i += digits
	}
	return b.String()
}

// escape reads what follows a backslash: the character meant, and how many hex
// digits stand behind the first letter.
func escape(s string) (r rune, digits int) {
	switch s[0] {
	case 'b', 't', 'n', 'f', 'r', 'e':
		return map[byte]rune{'b': '\b', 't': '\t', 'n': '\n', 'f': '\f', 'r': '\r', 'e': 0x1b}[s[0]], 0
	case 'x':
		digits = 2
	case 'u':
		digits = 4
	case 'U':
		digits = 8
	default:
		return rune(s[0]), 0
	}
	if len(s) <= digits {
		return rune(s[0]), 0
	}
	n, err := strconv.ParseUint(s[1:1+digits], 16, 32)
	if err != nil {
		return rune(s[0]), 0
	}
	return rune(n), digits
}
