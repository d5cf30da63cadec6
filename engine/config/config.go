package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/BurntSushi/toml"
)

// MaxFileSize is the most bytes a configuration file may have.
const MaxFileSize = 1 << 20

// Config is what a file says, with defaults filled in and relative paths
// resolved. It is not changed after Parse or Load.
type Config struct {
	File string // as the caller named it; begins every message
	Dir  string // absolute; where relative paths in the file start

	Engine  Engine
	Plugins []Plugin // those of the file; see Config.Plugin for all
	Volumes []Volume
	Exports []Export

	// Warnings are what was left out of account: drop-ins that do not fit.
	Warnings Problems
}

// Load reads a configuration file and the drop-ins in its state directory,
// which it does not make. The error is of type Problems; see Parse.
func Load(path string) (*Config, error) {
	data, problem := readFile(path)
	if problem != nil {
		return nil, Problems{*problem}
	}
	return parseWith(path, data, (*reader).dropIns)
}

// Parse reads the content of a configuration file called name, which begins
// every message and whose directory is where relative paths start. It knows of
// no drop-ins.
//
// The error is of type Problems and holds all problems of the file at once. If
// it is not nil, the configuration must not be served; it is still returned
// where the file is TOML, with defaults in place of what is unfit, so that
// others can add the problems that they find.
func Parse(name string, data []byte) (*Config, error) {
	return parseWith(name, data, func(*reader) {})
}

// parseWith reads a file and has its plugins changed before volumes are checked
// against them.
func parseWith(name string, data []byte, change func(*reader)) (*Config, error) {
	dir, err := filepath.Abs(filepath.Dir(name))
	if err != nil {
		dir = filepath.Dir(name) // the working directory is gone: stay relative to it
	}
	r := &reader{cfg: &Config{File: name, Dir: dir}}
	if len(data) > MaxFileSize {
		return nil, Problems{*tooLarge(name)}
	}
	values, pos, problem := decode(name, string(data))
	if problem != nil {
		return nil, Problems{*problem}
	}
	r.file(values, pos)
	change(r)
	r.checkVolumes()
	r.checkListeners()
	r.checkDevices()
	return r.cfg, r.problems.Err()
}

// reader gathers a configuration and its problems. The sections are kept beside
// what they were read into, index for index, for checks across sections.
type reader struct {
	cfg      *Config
	problems Problems

	plugins, volumes, exports []*section

	pluginNames, volumeNames map[string]int // to index; the first of each name

	noStateDir bool // the file names one that is unfit
}

func (r *reader) problem(line int, key, msg, fix string) {
	r.problems = append(r.problems, r.cfg.Problem(line, key, msg, fix))
}

// file reads the top level.
func (r *reader) file(values map[string]any, pos *node) {
	top := r.section("", Place{pos: pos}, values)
	engine := top.table("engine", sectionHeaders["engine"])
	r.plugins = top.tables("plugin", "plugin", "[plugin]")
	r.volumes = top.tables("volume", "volume", "[volume]")
	r.exports = top.tables("export", "export", "[export]")

	r.cfg.Engine = r.engine(engine)
	for _, s := range r.plugins {
		r.cfg.Plugins = append(r.cfg.Plugins, r.plugin(s))
	}
	for _, s := range r.volumes {
		r.cfg.Volumes = append(r.cfg.Volumes, r.volume(s))
	}
	r.pluginNames, r.volumeNames = index(r.plugins), index(r.volumes)
	for _, s := range r.exports {
		r.cfg.Exports = append(r.cfg.Exports, r.export(s))
	}
	r.unknownSections(top)
}

// sectionHeaders are the keys of the top level, as they are written.
var sectionHeaders = map[string]string{
	"engine": "[engine]", "plugin": "[[plugin]]", "volume": "[[volume]]", "export": "[[export]]",
}

// unknownSections is finish for the top level, where every key is a section.
func (r *reader) unknownSections(top *section) {
	for _, key := range top.inOrder() {
		if _, ok := sectionHeaders[key]; ok {
			continue
		}
		what, fix := "unknown section "+quote(key), "the sections are [engine], [[plugin]], [[volume]] and [[export]]"
		if near := r.guess(key, top.known); near != "" {
			fix = "write " + sectionHeaders[near] + ", or remove it"
		}
		if !isSection(top.values[key]) {
			what, fix = "key "+quote(key)+" stands outside of all sections", "put it below the [section] it belongs to"
		}
		r.problem(top.LineOf(key), top.KeyOf(key), what, fix)
	}
}

func isSection(v any) bool {
	_, isTable := v.(map[string]any)
	_, isList := tableList(v)
	return isTable || isList
}

// index maps the names of sections of one kind to their places in the list, and
// reports those that share one.
func index(sections []*section) map[string]int {
	first := make(map[string]int, len(sections))
	for i, s := range sections {
		name, ok := s.values["name"].(string)
		if !ok {
			continue
		}
		if before, taken := first[name]; taken {
			s.bad("name", fmt.Sprintf("%s is already used on line %d", quote(name), sections[before].LineOf("name")),
				"choose another one")
			continue
		}
		first[name] = i
	}
	return first
}

// namesOf gives the names of sections of one kind that somebody may have meant.
// Of a huge file only the first are looked at.
func namesOf(sections []*section) []string {
	var names []string
	for _, s := range sections[:min(len(sections), 256)] {
		if name, ok := s.values["name"].(string); ok {
			names = append(names, name)
		}
	}
	return names
}

// decode reads TOML: values from the library, positions from our own scan.
func decode(name, src string) (map[string]any, *node, *Problem) {
	pos, line, err := scanLines(src)
	var ve *ValueError
	if errors.As(err, &ve) {
		return nil, nil, &Problem{File: name, Line: line, Msg: ve.What, Fix: ve.Fix}
	}
	values := make(map[string]any)
	if _, err := toml.Decode(src, &values); err != nil {
		return nil, nil, syntaxProblem(name, src, err)
	}
	return values, pos, nil
}

// syntaxProblem turns the library's error into a problem. Its positions at the
// end of a file may lie outside.
func syntaxProblem(name, src string, err error) *Problem {
	p := &Problem{File: name, Msg: err.Error()}
	var pe toml.ParseError
	if errors.As(err, &pe) {
		last := 1 + strings.Count(src, "\n")
		p.Line = min(max(pe.Position.Line, 1), last)
		p.Key = printable(pe.LastKey)
		p.Msg = strings.TrimSuffix(pe.Message, ".")
	}
	p.Msg = "not valid TOML: " + printable(p.Msg)
	p.Fix = "mend the line; text needs quotes, and a key or [table] may be given only once"
	return p
}

// readFile reads a file of bounded size.
func readFile(path string) ([]byte, *Problem) {
	f, err := os.Open(path)
	if err != nil {
		return nil, openProblem(path, err)
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return nil, &Problem{File: path, Msg: "is a directory",
			Fix: fmt.Sprintf("name the file in it, as in %s", filepath.Join(path, "engine.toml"))}
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxFileSize+1))
	if err != nil {
		return nil, openProblem(path, err)
	}
	if len(data) > MaxFileSize {
		return nil, tooLarge(path)
	}
	return data, nil
}

func tooLarge(path string) *Problem {
	return &Problem{File: path, Msg: "is larger than " + FormatSize(MaxFileSize),
		Fix: "is it the configuration? name the file that is"}
}

// openProblem says why a file cannot be read. The path stands before it.
func openProblem(path string, err error) *Problem {
	p := &Problem{File: path, Msg: "cannot be read: " + err.Error()}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		p.Msg = "cannot be read: " + pe.Err.Error()
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		p.Msg, p.Fix = "there is no such file", "name the configuration file with -c FILE"
	case errors.Is(err, fs.ErrPermission):
		p.Fix = fmt.Sprintf("give this user (uid %d) the right to read it", os.Geteuid())
	}
	return p
}
