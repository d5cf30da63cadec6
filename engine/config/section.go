package config

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// section reads the keys of one table. Each method asks for one key, makes it
// known, and gives the default if the file lacks it or has something unfit,
// which it reports. finish reports the keys that nobody asked for.
type section struct {
	Place
	r      *reader
	values map[string]any
	known  []string
	// elsewhere ends the message on an unknown key: where it may belong.
	elsewhere string
}

func (r *reader) section(kind string, place Place, values map[string]any) *section {
	place.key, place.label = kind, kind
	return &section{Place: place, r: r, values: values}
}

// bad reports a key: what continues its name.
func (s *section) bad(key, what, fix string) {
	s.r.problems = append(s.r.problems, s.r.cfg.ProblemAt(s.Place, key, what, fix))
}

// badValue reports what a parser of values returned.
func (s *section) badValue(key string, err error) {
	what, fix := err.Error(), ""
	if ve, ok := err.(*ValueError); ok {
		what, fix = ve.What, ve.Fix
	}
	s.bad(key, what, fix)
}

// lacks reports a key that must be there.
func (s *section) lacks(key, fix string) {
	s.r.problem(s.Line, s.KeyOf(key), s.Label()+" has no "+key, fix)
}

func (s *section) get(key string) (any, bool) {
	s.known = append(s.known, key)
	v, ok := s.values[key]
	return v, ok
}

// has tells whether the file has the key, fit or not.
func (s *section) has(key string) bool {
	_, ok := s.values[key]
	return ok
}

// mismatch reports a value of the wrong type.
func (s *section) mismatch(key string, v any, want, fix string) {
	s.bad(key, fmt.Sprintf("is %s, not %s", describe(v), want), fix)
}

// describe names a decoded value and its type.
func describe(v any) string {
	switch v := v.(type) {
	case string:
		return "the string " + quote(v)
	case int64:
		return fmt.Sprintf("the integer %d", v)
	case float64:
		return fmt.Sprintf("the number %v", v)
	case bool:
		return fmt.Sprintf("the boolean %v", v)
	case time.Time:
		return "a date or time"
	case map[string]any:
		return "a table"
	}
	return "a list"
}

func (s *section) text(key string) string {
	v, ok := s.get(key)
	if !ok {
		return ""
	}
	t, ok := v.(string)
	if !ok {
		s.mismatch(key, v, "a string", "put it in quotes")
	}
	return t
}

func (s *section) boolean(key string) bool {
	v, ok := s.get(key)
	if !ok {
		return false
	}
	b, ok := v.(bool)
	if !ok {
		s.mismatch(key, v, "a boolean", "write true or false, without quotes")
	}
	return b
}

func (s *section) integer(key string, def, lo, hi int) int {
	v, ok := s.get(key)
	if !ok {
		return def
	}
	fix := fmt.Sprintf("write a number from %d to %d", lo, hi)
	n, ok := v.(int64)
	switch {
	case !ok:
		s.mismatch(key, v, "an integer", fix+", without quotes")
	case n < int64(lo) || n > int64(hi):
		s.bad(key, fmt.Sprintf("%d is out of range", n), fix)
	default:
		return int(n)
	}
	return def
}

// parsed reads a key that has a default and a form of its own. parse returns a
// *ValueError if the text is not of that form.
func parsed[T any](s *section, key string, def T, want, fix string, parse func(string) (T, error)) T {
	v, ok := s.get(key)
	if !ok {
		return def
	}
	t, ok := v.(string)
	if !ok {
		s.mismatch(key, v, want, fix)
		return def
	}
	x, err := parse(t)
	if err != nil {
		s.badValue(key, err)
		return def
	}
	return x
}

func (s *section) duration(key string, def time.Duration, example string, limit time.Duration) time.Duration {
	return parsed(s, key, def, "a duration",
		fmt.Sprintf("write a number with a unit in quotes, as in %q", example),
		func(t string) (time.Duration, error) { return parseDuration(t, example, limit) })
}

func (s *section) address(key string) Address {
	return parsed(s, key, Address{}, "an address", addressFix+" in quotes",
		func(t string) (Address, error) { return ParseAddress(s.r.cfg.Dir, t) })
}

func (s *section) path(key string) string {
	return parsed(s, key, "", "a path", "put it in quotes",
		func(t string) (string, error) { return parsePath(s.r.cfg.Dir, t) })
}

// choice reads one of a few words. later are those of other versions: the caller
// refuses them in words of its own, and no message proposes them.
func choice[T ~string](s *section, key string, def T, words []T, later ...T) T {
	offered := make([]string, len(words))
	for i, w := range words {
		offered[i] = string(w)
	}
	fix := "write " + quoted(offered, "or")
	return parsed(s, key, def, "a word", fix+" in quotes", func(t string) (T, error) {
		if slices.Contains(words, T(t)) || slices.Contains(later, T(t)) {
			return T(t), nil
		}
		return def, &ValueError{quote(t) + " is unknown", fix}
	})
}

// size reads a size in bytes, written as a string with a unit or as an integer.
func (s *section) size(key string, def, lo, hi uint64) uint64 {
	v, ok := s.get(key)
	if !ok {
		return def
	}
	n, err := sizeOf(v)
	if err != nil {
		s.badValue(key, err)
		return def
	}
	if n < lo || n > hi {
		s.bad(key, FormatSize(n)+" is out of range",
			fmt.Sprintf("write a size from %q to %q", FormatSize(lo), FormatSize(hi)))
		return def
	}
	return n
}

func sizeOf(v any) (uint64, error) {
	switch v := v.(type) {
	case string:
		return ParseSize(v)
	case int64:
		if v >= 0 {
			return uint64(v), nil
		}
		return 0, &ValueError{fmt.Sprintf("%d is negative", v), sizeFix}
	}
	return 0, &ValueError{"is " + describe(v) + ", not a size", sizeFix}
}

// tables reads a list of tables: [[volume]], or [[volume.path]] within one.
func (s *section) tables(key, kind, header string) []*section {
	v, ok := s.get(key)
	if !ok {
		return nil
	}
	list, ok := tableList(v)
	if !ok {
		fix := "write [" + header + "] above its keys" + s.elsewhere
		if _, isList := v.([]any); isList {
			s.bad(key, "is a list of other things than tables", fix)
		} else {
			s.mismatch(key, v, "a list of tables", fix)
		}
		return nil
	}
	sections := make([]*section, len(list))
	at := s.pos.child(key)
	for i, values := range list {
		place := Place{Line: s.LineOf(key), pos: at.item(i)}
		if place.pos != nil {
			place.Line = place.pos.line
		}
		sections[i] = s.r.section(fmt.Sprintf("%s[%d]", kind, i+1), place, values)
	}
	return sections
}

// isEmptyList tells a list of tables without any, or none at all.
func (s *section) isEmptyList(key string) bool {
	list, ok := tableList(s.values[key])
	return !s.has(key) || ok && len(list) == 0
}

// tableList is the list of tables behind [[headers]] or [{…}, {…}].
func tableList(v any) ([]map[string]any, bool) {
	if list, ok := v.([]map[string]any); ok {
		return list, true
	}
	items, ok := v.([]any)
	list := make([]map[string]any, len(items))
	for i := range items {
		t, isTable := items[i].(map[string]any)
		list[i], ok = t, ok && isTable
	}
	return list, ok
}

// table reads a table within the section. A file that lacks it has an empty one.
func (s *section) table(key, header string) *section {
	v, ok := s.get(key)
	values, isTable := v.(map[string]any)
	if ok && !isTable {
		s.mismatch(key, v, "a table", "write "+header+" above its keys")
	}
	place := Place{}
	if isTable {
		place = Place{Line: s.LineOf(key), pos: s.pos.child(key)}
	}
	return s.r.section(key, place, values)
}

// inOrder gives the section's keys as they appear in the file.
func (s *section) inOrder() []string {
	keys := make([]string, 0, len(s.values))
	for k := range s.values {
		keys = append(keys, k)
	}
	offset := func(key string) int {
		if n := s.pos.child(key); n != nil {
			return n.offset
		}
		return 0
	}
	slices.SortFunc(keys, func(a, b string) int {
		if d := offset(a) - offset(b); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	return keys
}

// finish reports the keys that nobody knows.
func (s *section) finish() {
	for _, key := range s.inOrder() {
		if slices.Contains(s.known, key) {
			continue
		}
		s.r.problem(s.LineOf(key), s.KeyOf(key), s.sentence("unknown key "+quote(key)), s.suggestion(key))
	}
}

func (s *section) suggestion(key string) string {
	if near := s.r.guess(key, s.known); near != "" {
		return fmt.Sprintf("write %q, or remove it%s", near, s.elsewhere)
	}
	return "the keys here are " + quoted(s.known, "and") + s.elsewhere
}
