package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Problem is one thing that is wrong with a configuration file.
type Problem struct {
	File string // as the caller named it
	Line int    // counted from 1; 0 if it concerns the file as a whole
	Key  string // which value, for programs: volume[1] "vm1-root".options.size
	Msg  string // what is wrong, as a sentence with its subject
	Fix  string // how to mend it; may be empty
}

// Error gives the problem on one line: FILE:LINE: what is wrong: how to mend it.
func (p Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	b.WriteString(": " + p.Msg)
	if p.Fix != "" {
		b.WriteString(": " + p.Fix)
	}
	return b.String()
}

// Problems are all that is wrong with a file, in the order of its lines.
type Problems []Problem

// Error gives one problem per line.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// Err sorts the problems by line, those of each file for themselves, and
// returns them as an error, or nil if there are none.
func (ps Problems) Err() error {
	if len(ps) == 0 {
		return nil
	}
	files := make(map[string]int) // in the order in which they come
	for _, p := range ps {
		if _, ok := files[p.File]; !ok {
			files[p.File] = len(files)
		}
	}
	slices.SortStableFunc(ps, func(a, b Problem) int {
		if d := files[a.File] - files[b.File]; d != 0 {
			return d
		}
		return a.Line - b.Line
	})
	return ps
}

// Problem makes a problem of this file, for those who check what this package
// cannot: key as Place.KeyOf gives it, msg with its subject, fix may be empty.
func (c *Config) Problem(line int, key, msg, fix string) Problem {
	return Problem{File: c.File, Line: line, Key: key, Msg: msg, Fix: fix}
}

// ProblemAt makes a problem about a key of a section: what continues the
// section's name and the key, as in `is in use`.
func (c *Config) ProblemAt(at Place, key, what, fix string) Problem {
	return c.ProblemIn(at, key, at.sentence(keyText(key)+" "+what), fix)
}

// ProblemIn makes a problem about a key of a section, which may stand in a
// drop-in: msg is a sentence with its subject.
func (c *Config) ProblemIn(at Place, key, msg, fix string) Problem {
	p := c.Problem(at.LineOf(key), at.KeyOf(key), msg, fix)
	if at.file != "" {
		p.File, p.Fix = at.file, dropInFix(fix, at.file)
	}
	return p
}

// OptionProblem makes a problem about an option of a volume. err is what one of
// the Option methods returned, or any other error.
func (c *Config) OptionProblem(v *Volume, o Option, err error) Problem {
	what, fix := err.Error(), ""
	if ve, ok := err.(*ValueError); ok {
		what, fix = ve.What, ve.Fix
	}
	return c.Problem(o.Line, v.KeyOf("options")+keySuffix(o.Key),
		v.sentence(keyText(o.Key)+" "+what), fix)
}

// ValueError says why a value cannot be taken, without saying where it stands.
type ValueError struct {
	What string // continues the name of the value: `"12XB" is no size`
	Fix  string // how to mend it
}

// Error gives both parts on one line.
func (e *ValueError) Error() string { return e.What + ": " + e.Fix }

// Place is where a section stands in the file. Its zero value is a section that
// the file does not have.
type Place struct {
	Line int // of the section's header; 0 if the file does not have it

	file  string // of a drop-in; "": the configuration itself
	key   string // volume[1] "vm1-root"
	label string // volume "vm1-root"
	pos   *node
}

// Label names the section in a sentence: volume "vm1-root". A section without a
// name is called by its number, counted from 1: volume[2].
func (p Place) Label() string { return p.label }

// sentence puts the section's name, if it has one, before what is wrong in it.
func (p Place) sentence(what string) string {
	if p.label == "" {
		return what
	}
	return p.label + ": " + what
}

// KeyOf gives the Problem.Key of one of the section's keys. Sections are
// numbered from 1.
func (p Place) KeyOf(key string) string {
	if p.key == "" {
		return keyText(key)
	}
	return p.key + keySuffix(key)
}

// LineOf gives the line of one of the section's keys, or the section's own if
// the file does not have the key.
func (p Place) LineOf(key string) int {
	if n := p.pos.child(key); n != nil {
		return n.line
	}
	return p.Line
}

func keySuffix(key string) string { return "." + keyText(key) }

// keyText writes a key as TOML would: bare if possible, else in quotes.
func keyText(key string) string {
	for i := range len(key) {
		if !isBareKey(key[i]) {
			return quote(key)
		}
	}
	if key == "" {
		return `""`
	}
	return key
}

// printable escapes what would break or colour a line in a message that is not
// ours.
func printable(s string) string {
	var b strings.Builder
	for _, r := range s {
		if strconv.IsPrint(r) {
			b.WriteRune(r)
			continue
		}
		b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
	}
	return b.String()
}

// maxQuoted is how many bytes of a stranger's text a message repeats.
const maxQuoted = 80

// quote repeats a piece of the file in a message: escaped, on one line, short.
func quote(s string) string {
	if len(s) <= maxQuoted {
		return fmt.Sprintf("%q", s)
	}
	cut := maxQuoted
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return fmt.Sprintf("%q…", s[:cut])
}
