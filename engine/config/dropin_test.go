package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	hashA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	hashB = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

// place is a configuration file with a state directory beside it.
type place struct {
	t   *testing.T
	dir string
}

// wasmPlugin is what most of these tests configure.
const wasmPlugin = "[[plugin]]\nname = \"p\"\nruntime = \"wasm\"\npath = \"old.wasm\"\nsha256 = \"" + hashA + "\"\n"

func newPlace(t *testing.T, text string) *place {
	t.Helper()
	p := &place{t, t.TempDir()}
	p.config(text)
	if err := os.Mkdir(p.path("run"), 0o700); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *place) path(name string) string { return filepath.Join(p.dir, name) }

func (p *place) config(text string) {
	p.write("engine.toml", "[engine]\nstate_dir = \"run\"\n"+text)
}

func (p *place) write(name, text string) {
	p.t.Helper()
	if err := os.WriteFile(p.path(name), []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// load reads the configuration, which must be fine.
func (p *place) load() *Config {
	p.t.Helper()
	cfg, err := Load(p.path("engine.toml"))
	if err != nil {
		p.t.Fatal(err)
	}
	return cfg
}

// messages are the problems and the warnings, with DIR for the directory.
func (p *place) messages() (problems, warnings string) {
	cfg, err := Load(p.path("engine.toml"))
	if err != nil {
		problems = err.Error()
	}
	if cfg != nil {
		warnings = cfg.Warnings.Error()
	}
	return strings.ReplaceAll(problems, p.dir, "DIR"), strings.ReplaceAll(warnings, p.dir, "DIR")
}

// keep keeps s for the plugin as if by an upgrade.
func (p *place) keep(plugin string, s Source) string {
	p.t.Helper()
	kept, err := p.load().Keep(plugin, s, "a test", time.Unix(0, 0))
	if err != nil {
		p.t.Fatal(err)
	}
	return kept
}

func wasm(path, hash string) Source { return Source{RuntimeWasm, path, hash} }

func TestKeepIsLoadedAgain(t *testing.T) {
	for _, tc := range []struct {
		name, config, plugin string
		to                   Source
	}{
		{"another file", wasmPlugin, "p", wasm("/new.wasm", hashB)},
		{"the same file, changed", wasmPlugin, "p", wasm("OLD", hashB)},
		{"builtin for a file", strings.ReplaceAll(wasmPlugin, `"p"`, `"nbd"`), "nbd", Source{Runtime: RuntimeBuiltin}},
		{"a file for a builtin", "", "nbd", wasm("/new.wasm", hashB)},
		{"a file for a builtin with a section", "[[plugin]]\nname=\"nbd\"\nruntime=\"builtin\"\nwatch=\"1s\"\n", "nbd", wasm("/new.wasm", hashB)},
		{"a strange path", wasmPlugin, "p", wasm("/a \"b\"\\\n\u007f\u00a0ä\U0001f600.wasm", hashB)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPlace(t, tc.config)
			if tc.to.Path == "OLD" {
				tc.to.Path = p.path("old.wasm")
			}
			before, _ := p.load().Plugin(tc.plugin)
			kept := p.keep(tc.plugin, tc.to)
			same(t, "file", kept, p.path("run/conf.d/plugin-"+tc.plugin+".toml"))
			cfg := p.load()
			got, ok := cfg.Plugin(tc.plugin)
			same(t, "found", ok, true)
			same(t, "source", got.Source, tc.to)
			same(t, "own source", got.Own, before.Source)
			same(t, "drop-in", got.DropIn, kept)
			same(t, "watch", got.Watch, before.Watch)
			same(t, "has memory", got.Memory > 0, tc.to.Runtime == RuntimeWasm)
			same(t, "warnings", len(cfg.Warnings), 0)
			p.isPrivate(kept)
		})
	}
}

// isPrivate wants a file that only its owner can read, and nothing beside it.
func (p *place) isPrivate(file string) {
	p.t.Helper()
	st, err := os.Stat(file)
	if err != nil || st.Mode().Perm() != 0o600 {
		p.t.Errorf("mode %v, %v", st.Mode(), err)
	}
	entries, err := os.ReadDir(filepath.Dir(file))
	if err != nil || len(entries) != 1 {
		p.t.Errorf("%v, %v: want the drop-in alone", entries, err)
	}
}

// What the file says itself needs no drop-in.
func TestKeepWhatTheFileSays(t *testing.T) {
	p := newPlace(t, wasmPlugin)
	kept := p.keep("p", wasm("/new.wasm", hashB))
	same(t, "going back leaves", p.keep("p", wasm(p.path("old.wasm"), hashA)), "")
	if _, err := os.Lstat(kept); !os.IsNotExist(err) {
		t.Errorf("the drop-in is still there: %v", err)
	}
	same(t, "once more", p.keep("p", wasm(p.path("old.wasm"), hashA)), "")

	p.config(strings.Split(wasmPlugin, "sha256")[0]) // any hash will do
	same(t, "without a pin", p.keep("p", wasm(p.path("old.wasm"), hashB)), "")
	same(t, "builtin", p.keep("nbd", Source{Runtime: RuntimeBuiltin}), "")
}

func TestKeepRefuses(t *testing.T) {
	p := newPlace(t, wasmPlugin)
	for name, s := range map[string]Source{
		"q":   wasm("/new.wasm", hashB),   // no such plugin
		"p":   wasm("/\xff.wasm", hashB),  // not UTF-8
		"nbd": wasm("/new.wasm", "short"), // could not be read again
	} {
		if kept, err := p.load().Keep(name, s, "a test", time.Now()); err == nil {
			t.Errorf("%s: %s was written", name, kept)
		}
	}
	if _, err := os.Lstat(p.path("run/conf.d")); !os.IsNotExist(err) {
		t.Errorf("something was written: %v", err)
	}
}

// Nothing is kept where the next start would not take it from.
func TestKeepWantsItsOwnDirectory(t *testing.T) {
	p := newPlace(t, wasmPlugin)
	cfg := p.load()
	for name, make := range map[string]func(dir string) error{
		"may be written by others": func(dir string) error {
			if err := os.Mkdir(dir, 0o700); err != nil {
				return err
			}
			return os.Chmod(dir, 0o777)
		},
		"not a directory": func(dir string) error { return os.Symlink("/tmp", dir) },
	} {
		dir := p.path("run/conf.d")
		if err := make(dir); err != nil {
			t.Fatal(err)
		}
		kept, err := cfg.Keep("p", wasm("/new.wasm", hashB), "a test", time.Now())
		if err == nil || !strings.Contains(err.Error(), dir+": ") || !strings.Contains(err.Error(), name) {
			t.Errorf("%q, %v: want %s", kept, err, name)
		}
		if err := os.Remove(dir); err != nil { // it is empty
			t.Error(err)
		}
	}
}

// A drop-in never outlives what it stands in for, and never goes silently.
func TestObsoleteDropIns(t *testing.T) {
	for _, tc := range []struct{ name, config, want string }{
		{"another path", strings.Replace(wasmPlugin, "old.wasm", "newer.wasm", 1),
			`it stands in for DIR/old.wasm (sha256 aaaaaaaaaaaa), and the configuration now names DIR/newer.wasm (sha256 aaaaaaaaaaaa)`},
		{"another pin", strings.Replace(wasmPlugin, hashA, hashB, 1),
			`it stands in for DIR/old.wasm (sha256 aaaaaaaaaaaa), and the configuration now names DIR/old.wasm (sha256 bbbbbbbbbbbb)`},
		{"gone", "", `the configuration has no plugin of that name`},
		{"the same now", strings.NewReplacer("old.wasm", "/new.wasm", hashA, hashB).Replace(wasmPlugin),
			`the configuration itself names /new.wasm (sha256 bbbbbbbbbbbb)`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPlace(t, wasmPlugin)
			p.keep("p", wasm("/new.wasm", hashB))
			p.config(tc.config)
			problems, warnings := p.messages()
			same(t, "problems", problems, "")
			same(t, "warning", warnings, `DIR/run/conf.d/plugin-p.toml:4: plugin "p": is ignored: `+tc.want+`: remove it`)
			plain, err := Parse(p.path("engine.toml"), []byte("[engine]\nstate_dir = \"run\"\n"+tc.config))
			if err != nil {
				t.Fatal(err)
			}
			want, _ := plain.Plugin("p")
			got, _ := p.load().Plugin("p")
			same(t, "source", got.Source, want.Source)
			same(t, "drop-in", got.DropIn, "")
		})
	}
}

// whole is a drop-in without a fault.
const whole = "[[plugin]]\nname = \"p\"\nruntime = \"wasm\"\npath = \"/new.wasm\"\nsha256 = \"" + hashB +
	"\"\ninstead_of_path = \"/old.wasm\"\ninstead_of_sha256 = \"\"\n"

func TestBadDropIns(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"empty", "", ": has 0 [[plugin]] sections, a drop-in has one"},
		{"two", whole + whole, ": has 2 [[plugin]] sections, a drop-in has one"},
		{"torn", whole[:50], ":4: not valid TOML: unexpected EOF; expected '\"'"},
		{"garbage", "\x00\x01\xff", ":1: not valid TOML"},
		{"unknown key", whole + "memory = \"1MiB\"\n", `:8: plugin "p": unknown key "memory"`},
		{"unknown section", whole + "[engine]\n", `:8: unknown key "engine"`},
		{"no pin", strings.Replace(whole, hashB, "", 1), `:3: plugin "p": runtime "wasm" needs a path and a sha256`},
		{"short pin", strings.Replace(whole, hashB, "b", 1), `:5: plugin "p": sha256 "b" is no SHA-256 hash`},
		{"key missing", strings.Replace(whole, "sha256 = \""+hashB+"\"\n", "", 1), `:1: plugin "p" has no sha256: a drop-in has every key`},
		{"relative", strings.Replace(whole, "/new", "new", 1), `:4: plugin "p": path "new.wasm" is not absolute`},
		{"NUL", strings.Replace(whole, "/new", "/\\u0000", 1), `:4: plugin "p": path "/\x00.wasm" holds a NUL byte`},
		{"builtin with a path", strings.Replace(whole, `"wasm"`, `"builtin"`, 1), `:3: plugin "p": runtime "builtin" has neither path nor sha256`},
		{"not builtin", strings.NewReplacer(`"wasm"`, `"builtin"`, "/new.wasm", "", hashB, "").Replace(whole), `:2: plugin "p": name "p" is no builtin plugin`},
		{"of another", strings.Replace(whole, `"p"`, `"q"`, 1), `:2: plugin "q": name "q" is not the plugin that the file is called by`},
		{"hash of nothing", strings.NewReplacer("/old.wasm", "", "instead_of_sha256 = \"\"", "instead_of_sha256 = \""+hashA+"\"").Replace(whole),
			`:7: plugin "p": instead_of_sha256 is the hash of no file`},
		{"wrong type", strings.Replace(whole, `"/new.wasm"`, "5", 1), `:4: plugin "p": path is the integer 5, not a path`},
		{"large", whole + strings.Repeat("#\n", maxDropIn), ": is larger than 64KiB"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPlace(t, wasmPlugin)
			if err := os.Mkdir(p.path("run/conf.d"), 0o700); err != nil {
				t.Fatal(err)
			}
			p.write("run/conf.d/plugin-p.toml", tc.text)
			problems, _ := p.messages()
			first, _, _ := strings.Cut(problems, "\n")
			if !strings.HasPrefix(first, "DIR/run/conf.d/plugin-p.toml"+tc.want) {
				t.Errorf("got  %s\nwant %s", first, tc.want)
			}
			remedy := "remove DIR/run/conf.d/plugin-p.toml, and the configuration's own plugin is loaded; engine plugin upgrade --save writes it anew"
			if strings.Count(first, remedy) != 1 || !strings.HasSuffix(first, remedy) {
				t.Errorf("the remedy is not the last thing said, once: %s", first)
			}
		})
	}
}

// Nothing is taken from a file that somebody else could have put there.
func TestDropInsOfOthers(t *testing.T) {
	for _, tc := range []struct {
		name  string
		spoil func(p *place, file string) error
		want  string
	}{
		{"writable file", func(_ *place, f string) error { return os.Chmod(f, 0o620) },
			"DIR/run/conf.d/plugin-p.toml: may be written by others (mode 0620): look what it says, and chmod 600 it or remove it"},
		{"writable directory", func(p *place, _ string) error { return os.Chmod(p.path("run/conf.d"), 0o777) },
			"DIR/run/conf.d: may be written by others (mode 0777): look what it says, and chmod 755 it or remove it"},
		{"link", func(p *place, f string) error {
			return os.Rename(f, p.path("x")) // and a link in its place
		}, "DIR/run/conf.d/plugin-p.toml: cannot be read: too many levels of symbolic links"},
		{"fifo", func(_ *place, f string) error {
			if err := os.Remove(f); err != nil {
				return err
			}
			return syscall.Mkfifo(f, 0o600)
		}, "DIR/run/conf.d/plugin-p.toml: is no regular file: remove it"},
		{"directory", func(_ *place, f string) error {
			if err := os.Remove(f); err != nil {
				return err
			}
			return os.Mkdir(f, 0o700)
		}, "DIR/run/conf.d/plugin-p.toml: is no regular file: remove it"},
		{"conf.d is a file", func(p *place, f string) error {
			if err := os.RemoveAll(p.path("run/conf.d")); err != nil {
				return err
			}
			return os.WriteFile(p.path("run/conf.d"), nil, 0o600)
		}, "DIR/run/conf.d: cannot be read: not a directory"},
		// The engine refuses such a state directory for itself.
		{"writable state directory", func(p *place, _ string) error { return os.Chmod(p.path("run"), 0o777) }, ""},
		{"the state directory is a file", func(p *place, _ string) error {
			if err := os.RemoveAll(p.path("run")); err != nil {
				return err
			}
			return os.WriteFile(p.path("run"), nil, 0o600)
		}, ""},
		{"another user's file", func(_ *place, f string) error { return chown(f) },
			"DIR/run/conf.d/plugin-p.toml: belongs to user 12345 and the engine runs as user 0: look what it says, and change its owner or remove it"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPlace(t, wasmPlugin)
			file := p.keep("p", wasm("/new.wasm", hashB))
			if err := tc.spoil(p, file); err == errNotRoot {
				t.Skip(err)
			} else if err != nil {
				t.Fatal(err)
			}
			if tc.name == "link" {
				if err := os.Symlink(p.path("x"), file); err != nil {
					t.Fatal(err)
				}
			}
			cfg, _ := Load(p.path("engine.toml"))
			got, _ := cfg.Plugin("p")
			same(t, "path", got.Path, p.path("old.wasm"))
			problems, warnings := p.messages()
			same(t, "problems", problems, tc.want)
			same(t, "warnings", warnings, "")
		})
	}
}

var errNotRoot = fmt.Errorf("needs root: to give a file to another user")

func chown(file string) error {
	if os.Geteuid() != 0 {
		return errNotRoot
	}
	return os.Chown(file, 12345, 12345)
}

// Other files are named; those that a dead engine has left half-written are not.
func TestOtherFilesInConfD(t *testing.T) {
	p := newPlace(t, wasmPlugin)
	p.keep("p", wasm("/new.wasm", hashB))
	p.write("run/conf.d/.plugin-p.toml.new", "[[plu")
	p.write("run/conf.d/notes.txt", "x")
	p.write("run/conf.d/plugin-.toml", "x")
	problems, warnings := p.messages()
	same(t, "problems", problems, "")
	const say = ": is ignored: it is no drop-in, those are called plugin-NAME.toml: remove it"
	same(t, "warnings", warnings, "DIR/run/conf.d/notes.txt"+say+"\nDIR/run/conf.d/plugin-.toml"+say)
	got, _ := p.load().Plugin("p")
	same(t, "path", got.Path, "/new.wasm")
	p.keep("p", wasm("/newer.wasm", hashB)) // over what is half-written
	got, _ = p.load().Plugin("p")
	same(t, "path", got.Path, "/newer.wasm")
}

func TestTooManyFilesInConfD(t *testing.T) {
	p := newPlace(t, wasmPlugin)
	if err := os.Mkdir(p.path("run/conf.d"), 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range maxDropIns + 1 {
		p.write(fmt.Sprintf("run/conf.d/.%d", i), "")
	}
	problems, _ := p.messages()
	same(t, "problems", problems, "DIR/run/conf.d: holds more than 256 files: keep only drop-ins there")
}

// A module that a drop-in names is reported where it is named, and volumes are
// checked against what is loaded.
func TestProblemsInDropIns(t *testing.T) {
	p := newPlace(t, strings.ReplaceAll(wasmPlugin, `"p"`, `"nbd"`)+"[[volume]]\nname = \"v\"\nplugin = \"nbd\"\n")
	p.keep("nbd", wasm("/new.wasm", hashB))
	cfg := p.load()
	nbd, _ := cfg.Plugin("nbd")
	own := cfg.ProblemIn(nbd.Place, "path", "a", "b")
	same(t, "in the file", own.Error(), p.path("engine.toml")+":6: a: b")
	file := p.path("run/conf.d/plugin-nbd.toml")
	got := cfg.ProblemIn(nbd.SourcePlace(), "path", "a", "b")
	same(t, "in the drop-in", got.Error(), file+":6: a: b; or remove "+file+
		", and the configuration's own plugin is loaded; engine plugin upgrade --save writes it anew")

	p.keep("nbd", Source{Runtime: RuntimeBuiltin}) // of which it is known that it needs a path
	problems, _ := p.messages()
	if !strings.Contains(problems, `volume "v" has no path`) {
		t.Errorf("got %q", problems)
	}
}

func TestNoDropInsForAnUnfitStateDir(t *testing.T) {
	p := newPlace(t, "")
	p.write("engine.toml", "[engine]\nstate_dir = 1\n")
	problems, warnings := p.messages()
	same(t, "problems", problems, "DIR/engine.toml:2: engine: state_dir is the integer 1, not a path: put it in quotes")
	same(t, "warnings", warnings, "")
}

// Whatever the file: no panic, and either problems that name it, or what is
// written and read again the same.
func FuzzDropIn(f *testing.F) {
	f.Add([]byte(whole))
	f.Add([]byte(strings.NewReplacer(`"wasm"`, `"builtin"`, "/new.wasm", "", hashB, "", `"p"`, `"nbd"`).Replace(whole)))
	addSources(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		file := "/run/engine/conf.d/plugin-p.toml"
		d, err := ParseDropIn(file, data)
		if err != nil {
			for _, p := range err.(Problems) {
				if text := p.Error() + p.Key; p.File != file || p.Msg == "" || printable(text) != text {
					t.Fatalf("%+v", p)
				}
			}
			return
		}
		text, err := d.format("a test", time.Unix(0, 0))
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseDropIn(file, text)
		if err != nil {
			t.Fatalf("%v:\n%s", err, text)
		}
		if again.Name != d.Name || again.Source != d.Source || again.Instead != d.Instead {
			t.Fatalf("%+v is read again as %+v", d, again)
		}
	})
}
