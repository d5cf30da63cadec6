package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// dropIns applies the drop-ins of the state directory to the plugins of the
// file. A state directory that is not there has none. One that others could
// have prepared is not looked into: the engine refuses it for itself.
func (r *reader) dropIns() {
	if r.noStateDir || trusted(r.cfg.Engine.StateDir) != nil {
		return
	}
	dir := dropInDir(r.cfg.Engine.StateDir)
	names, err := listDropIns(dir)
	if err != nil {
		r.fileProblem(dir, err)
		return
	}
	for _, name := range names {
		r.useDropIn(filepath.Join(dir, name))
	}
}

// useDropIn reads a file of conf.d and applies it.
func (r *reader) useDropIn(file string) {
	base := filepath.Base(file)
	name, ok := strings.CutSuffix(strings.TrimPrefix(base, dropInPrefix), dropInSuffix)
	if !ok || !strings.HasPrefix(base, dropInPrefix) || !isName(name) {
		r.warn(Problem{File: file, Msg: "is ignored: it is no drop-in, those are called plugin-NAME.toml", Fix: "remove it"})
		return
	}
	data, err := readDropIn(file)
	if err != nil {
		r.fileProblem(file, err)
		return
	}
	d, err := ParseDropIn(file, data)
	var problems Problems
	if errors.As(err, &problems) {
		r.problems = append(r.problems, problems...)
		return
	}
	r.apply(d)
}

func (r *reader) fileProblem(file string, err error) {
	what, fix := "cannot be read: "+err.Error(), ""
	var ve *ValueError
	if errors.As(err, &ve) {
		what, fix = ve.What, ve.Fix
	}
	r.problems = append(r.problems, Problem{File: file, Msg: what, Fix: fix})
}

func (r *reader) warn(p Problem) { r.cfg.Warnings = append(r.cfg.Warnings, p) }

// apply puts a drop-in in the place of what the file names, or says why not.
func (r *reader) apply(d *DropIn) {
	own, ok := r.cfg.Plugin(d.Name)
	ignored := func(why string) {
		r.warn(Problem{File: d.File, Line: d.LineOf("name"), Key: d.KeyOf("name"),
			Msg: d.sentence("is ignored: " + why), Fix: "remove it"})
	}
	switch {
	case !ok:
		ignored("the configuration has no plugin of that name")
	case own.Source.Covers(d.Source):
		ignored("the configuration itself names " + own.Source.String())
	case own.Source.Path != d.Instead.Path || own.Source.SHA256 != d.Instead.SHA256:
		ignored(fmt.Sprintf("it stands in for %s, and the configuration now names %s", d.Instead, own.Source))
	default:
		r.replace(own, d)
	}
}

// replace makes the configuration name what the drop-in does.
func (r *reader) replace(p Plugin, d *DropIn) {
	i := slices.IndexFunc(r.cfg.Plugins, func(q Plugin) bool { return q.Name == p.Name })
	if i < 0 { // a builtin one without a section has one from now on
		i = len(r.cfg.Plugins)
		p.Place = d.Place
		r.cfg.Plugins = append(r.cfg.Plugins, p)
		r.pluginNames[p.Name] = i
	}
	q := &r.cfg.Plugins[i]
	before := q.Runtime
	q.Source, q.DropIn, q.dropPlace = d.Source, d.File, d.Place
	if q.Runtime != before {
		q.Memory, q.Process = limitsOf(q.Runtime)
	}
}

// limitsOf are what a plugin of a runtime gets whose section is of another one.
func limitsOf(runtime Runtime) (memory uint64, p Process) {
	switch runtime {
	case RuntimeWasm:
		return DefaultPluginMemory, Process{}
	case RuntimeProcess:
		return DefaultProcessMemory, DefaultProcess()
	}
	return 0, Process{}
}

// As is the plugin with another source: what its section says of memory and
// processes goes on to hold if the runtime is the same, else the defaults do.
func (p Plugin) As(s Source) Plugin {
	if s.Runtime != p.Runtime {
		p.Memory, p.Process = limitsOf(s.Runtime)
	}
	p.Source = s
	return p
}

// SourcePlace is where it stands what is to be loaded: the plugin's own section,
// or the drop-in.
func (p Plugin) SourcePlace() Place {
	if p.DropIn != "" {
		return p.dropPlace
	}
	return p.Place
}

// listDropIns gives the names of the files in conf.d, sorted, without those
// that begin with a dot. There is none if there is no directory.
func listDropIns(dir string) ([]string, error) {
	f, err := openDropInDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	entries, err := f.ReadDir(maxDropIns + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, plainError(err)
	}
	if len(entries) > maxDropIns {
		return nil, &ValueError{fmt.Sprintf("holds more than %d files", maxDropIns), "keep only drop-ins there"}
	}
	var names []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

// openDropInDir opens conf.d, if nobody else could have put something there.
func openDropInDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, plainError(err)
	}
	if err := trustedFile(f); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// readDropIn reads a file of bounded size that nobody else could have written.
func readDropIn(file string) ([]byte, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0) // a FIFO must not hang us
	if err != nil {
		return nil, plainError(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, plainError(err)
	}
	if !st.Mode().IsRegular() {
		return nil, &ValueError{"is no regular file", "remove it"}
	}
	if err := trustedFile(f); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxDropIn+1))
	if err != nil {
		return nil, plainError(err)
	}
	return data, nil
}

// plainError drops the path, which stands before every message already.
func plainError(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// trusted tells whether only root and this user could have put something into a
// directory.
func trusted(dir string) error {
	st, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if !st.IsDir() {
		return syscall.ENOTDIR
	}
	return trustedInfo(st)
}

func trustedFile(f *os.File) error {
	st, err := f.Stat()
	if err != nil {
		return plainError(err)
	}
	return trustedInfo(st)
}

func trustedInfo(st fs.FileInfo) error {
	uid, own := st.Sys().(*syscall.Stat_t).Uid, uint32(os.Geteuid())
	switch {
	case uid != own && uid != 0:
		return &ValueError{fmt.Sprintf("belongs to user %d and the engine runs as user %d", uid, own),
			"look what it says, and change its owner or remove it"}
	case st.Mode().Perm()&0o022 != 0:
		return &ValueError{fmt.Sprintf("may be written by others (mode %#o)", st.Mode().Perm()),
			fmt.Sprintf("look what it says, and chmod %o it or remove it", st.Mode().Perm()&^0o022)}
	}
	return nil
}
