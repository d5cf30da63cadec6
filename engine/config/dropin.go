package config

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"
)

// DropIn is a file in the state directory that makes a restart keep what an
// upgrade has brought: for one plugin it stands in for what the configuration
// names, as long as that is what it stood in for when it was written.
type DropIn struct {
	Place
	File    string // its path
	Name    string // the plugin's
	Source         // what is to be loaded; a module is pinned
	Instead Source // what the configuration named
}

// Bounds on drop-ins.
const (
	maxDropIn  = 64 << 10 // bytes of one
	maxDropIns = 256      // files in their directory
)

// dropInDir is where the drop-ins of a state directory are.
func dropInDir(stateDir string) string { return filepath.Join(stateDir, "conf.d") }

// DropInFile is the path of a plugin's drop-in.
func DropInFile(stateDir, plugin string) string {
	return filepath.Join(dropInDir(stateDir), dropInPrefix+plugin+dropInSuffix)
}

const dropInPrefix, dropInSuffix = "plugin-", ".toml"

// String says it in a message: a file and what is pinned of it, or builtin.
func (s Source) String() string {
	switch {
	case s.Runtime == RuntimeBuiltin:
		return "the builtin one"
	case s.SHA256 != "":
		return fmt.Sprintf("%s (sha256 %.12s)", printable(s.Path), s.SHA256)
	}
	return printable(s.Path)
}

// Covers tells whether who loads s loads other, which is pinned.
func (s Source) Covers(other Source) bool {
	return s.Runtime == other.Runtime && s.Path == other.Path && (s.SHA256 == "" || s.SHA256 == other.SHA256)
}

// ParseDropIn reads the content of a drop-in whose path is file. It is as
// strict as Parse; the error is of type Problems.
func ParseDropIn(file string, data []byte) (*DropIn, error) {
	if len(data) > maxDropIn {
		return nil, dropInProblems(file, Problem{File: file, Msg: "is larger than " + FormatSize(maxDropIn)})
	}
	values, pos, problem := decode(file, string(data))
	if problem != nil {
		return nil, dropInProblems(file, *problem)
	}
	r := &reader{cfg: &Config{File: file, Dir: filepath.Dir(file)}}
	top := r.section("", Place{pos: pos}, values)
	sections := top.tables("plugin", "plugin", "[plugin]")
	top.finish()
	if len(sections) != 1 {
		r.problem(0, "plugin", fmt.Sprintf("has %d [[plugin]] sections, a drop-in has one", len(sections)), "")
		return nil, dropInProblems(file, r.problems...)
	}
	d := r.dropIn(sections[0], file)
	if len(r.problems) > 0 {
		return nil, dropInProblems(file, r.problems...)
	}
	return d, nil
}

// dropInProblems gives problems the remedy that all drop-ins have: the engine
// wrote them, and can write them again.
func dropInProblems(file string, list ...Problem) error {
	for i := range list {
		list[i].Fix = dropInFix(list[i].Fix, file)
	}
	return Problems(list).Err()
}

func dropInFix(fix, file string) string {
	remedy := "remove " + printable(file) + ", and the configuration's own plugin is loaded; engine plugin upgrade --save writes it anew"
	if fix == "" {
		return remedy
	}
	return fix + "; or " + remedy
}

func (r *reader) dropIn(s *section, file string) *DropIn {
	d := &DropIn{File: file, Name: s.name("plugin")}
	d.Place = s.Place
	d.Place.file = file
	d.Runtime = choice(s, "runtime", "", []Runtime{RuntimeWasm, RuntimeProcess, RuntimeBuiltin})
	d.Path = parsed(s, "path", "", "a path", "put it in quotes", absoluteOrNone)
	d.SHA256 = parsed(s, "sha256", "", "a hash", "write 64 hex digits in quotes", hashOrNone)
	d.Instead.Path = parsed(s, "instead_of_path", "", "a path", "put it in quotes", absoluteOrNone)
	d.Instead.SHA256 = parsed(s, "instead_of_sha256", "", "a hash", "write 64 hex digits in quotes", hashOrNone)
	d.Instead.Runtime = RuntimeWasm // or a process; nobody asks
	if d.Instead.Path == "" {
		d.Instead.Runtime = RuntimeBuiltin
	}
	s.finish()
	r.checkDropIn(s, d)
	return d
}

// checkDropIn checks that a drop-in has all keys, and values that fit together.
func (r *reader) checkDropIn(s *section, d *DropIn) {
	for _, key := range []string{"runtime", "path", "sha256", "instead_of_path", "instead_of_sha256"} {
		if !s.has(key) {
			s.lacks(key, "a drop-in has every key")
		}
	}
	if len(r.problems) > 0 {
		return // what is unfit would be called missing
	}
	switch {
	case filepath.Base(d.File) != dropInPrefix+d.Name+dropInSuffix:
		s.bad("name", quote(d.Name)+" is not the plugin that the file is called by", "")
	case d.Runtime != RuntimeBuiltin && (d.Path == "" || d.SHA256 == ""):
		s.bad("runtime", quote(string(d.Runtime))+" needs a path and a sha256", "")
	case d.Runtime == RuntimeBuiltin && (d.Path != "" || d.SHA256 != ""):
		s.bad("runtime", `"builtin" has neither path nor sha256`, "")
	case d.Runtime == RuntimeBuiltin && !isBuiltin(d.Name):
		s.bad("name", quote(d.Name)+" is no builtin plugin", "")
	case d.Instead.Path == "" && d.Instead.SHA256 != "":
		s.bad("instead_of_sha256", "is the hash of no file", "")
	}
}

func isBuiltin(name string) bool {
	_, ok := builtins[name]
	return ok
}

func absoluteOrNone(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	if !filepath.IsAbs(s) {
		return "", &ValueError{quote(s) + " is not absolute", ""}
	}
	return parsePath("", s)
}

func hashOrNone(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	return parseSHA256(s)
}

// format writes the drop-in as ParseDropIn reads it. by and at say who wrote
// it, and when.
func (d *DropIn) format(by string, at time.Time) ([]byte, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "# Written by %s, %s.\n", printable(by), at.UTC().Format(time.RFC3339))
	fmt.Fprintf(&b, "# While it is here it stands in for what the configuration says of this plugin.\n[[plugin]]\n")
	for _, kv := range [][2]string{
		{"name", d.Name}, {"runtime", string(d.Runtime)}, {"path", d.Path}, {"sha256", d.SHA256},
		{"instead_of_path", d.Instead.Path}, {"instead_of_sha256", d.Instead.SHA256},
	} {
		if !utf8.ValidString(kv[1]) {
			return nil, fmt.Errorf("%s %q cannot be written into a configuration, which is UTF-8: rename the file", kv[0], kv[1])
		}
		fmt.Fprintf(&b, "%s = %s\n", kv[0], tomlString(kv[1]))
	}
	return []byte(b.String()), nil
}

// tomlString writes a basic string (TOML 1.0, "String").
func tomlString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
