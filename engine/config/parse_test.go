package config

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// full reads testdata/full.toml as if it stood in /etc/engine.
func full(t *testing.T) *Config {
	t.Helper()
	data, err := os.ReadFile("testdata/full.toml")
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := Parse("/etc/engine/full.toml", data)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func parse(t *testing.T, src string) *Config {
	t.Helper()
	cfg, err := Parse("/etc/engine/engine.toml", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func same[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func TestFullEngine(t *testing.T) {
	cfg := full(t)
	e := cfg.Engine
	same(t, "dir", cfg.Dir, "/etc/engine")
	same(t, "state_dir", e.StateDir, "/etc/engine/run")
	same(t, "admin", e.Admin, Address{"unix", "/etc/engine/run/orders.sock"})
	same(t, "http", e.HTTP, "127.0.0.1:9178")
	same(t, "reactors", e.Reactors, 2)
	same(t, "poll", e.Poll, 50*time.Microsecond)
	same(t, "log_level", e.LogLevel, slog.LevelDebug)
	same(t, "line", e.Line, 3)
	same(t, "line of poll", e.LineOf("poll"), 8)
	same(t, "label", e.Label(), "engine")
}

func TestFullPlugins(t *testing.T) {
	cfg := full(t)
	same(t, "number", len(cfg.Plugins), 2)
	p, ok := cfg.Plugin("nbd")
	same(t, "nbd found", ok, true)
	same(t, "shadows the builtin one", p.Runtime, RuntimeWasm)
	same(t, "kind", p.Kind(), KindUnknown)
	same(t, "path", p.Path, "/etc/engine/build/plugins/nbd.wasm")
	same(t, "sha256", p.SHA256, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
	same(t, "memory", p.Memory, 24*MiB)
	same(t, "line", p.Line, 11)
	p, _ = cfg.Plugin("memory")
	same(t, "a builtin with a section", p.Line, 18)
	same(t, "its memory", p.Memory, 0)
	p, ok = cfg.Plugin("file")
	same(t, "file found", ok, true)
	same(t, "a builtin without a section", p.Line, 0)
	same(t, "its kind", p.Kind(), KindStore)
	same(t, "its name", p.Name+" "+string(p.Runtime)+" "+p.Label(), `file builtin builtin plugin "file"`)
	_, ok = cfg.Plugin("iscsi")
	same(t, "iscsi found", ok, false)
}

func TestFullVolumes(t *testing.T) {
	v := full(t).Volumes[0]
	same(t, "name", v.Name, "vm1-root")
	same(t, "plugin", v.Plugin, "nbd")
	same(t, "read_only", v.ReadOnly, true)
	same(t, "timeout", v.Timeout, 45*time.Second)
	same(t, "fence", v.Fence, 90*time.Second)
	same(t, "on_lost_cache", v.OnLostCache, LostCacheTrust)
	same(t, "connections", v.Connections, 4)
	same(t, "dir", v.Dir, "/etc/engine")
	same(t, "key", v.KeyOf("timeout"), `volume[1] "vm1-root".timeout`)
	same(t, "paths", len(v.Paths), 2)
	same(t, "path 1", v.Paths[0].Address.String(), "tcp:[::1]:10810")
	same(t, "path 2", v.Paths[1].Address, Address{"unix", "/etc/engine/run/server.sock"})
	same(t, "priority", v.Paths[1].Priority, 7)
	same(t, "line of path 2", v.Paths[1].Line, 41)
	same(t, "label of path 2", v.Paths[1].Label(), `volume "vm1-root" path[2]`)
	same(t, "key of path 2", v.Paths[1].KeyOf("address"), `volume[1] "vm1-root".path[2].address`)
}

func TestFullOptions(t *testing.T) {
	cfg := full(t)
	want := []Option{
		{"export", "disk0", 31},
		{"block.size", int64(4096), 32},
		{"ratio", 0.5, 33},
		{"verify", true, 34},
		{"banner", "two\nlines", 35},
		{"window", "4GiB", 38},
	}
	if got := cfg.Volumes[0].Options; !slices.Equal(got, want) {
		t.Errorf("options: got %v, want %v", got, want)
	}
	if got := cfg.Volumes[1].Options; !slices.Equal(got, []Option{{"size", "1GiB", 48}}) {
		t.Errorf("options of an inline table: %v", got)
	}
	if got := cfg.Volumes[2].Options; !slices.Equal(got, []Option{{"path", "disk.img", 53}, {"direct", false, 54}}) {
		t.Errorf("options as dotted keys: %v", got)
	}
}

func TestFullInlinePaths(t *testing.T) {
	paths := full(t).Volumes[3].Paths
	same(t, "number", len(paths), 2)
	same(t, "host name", paths[0].Address.Addr, "storage.example:10809")
	same(t, "line", paths[1].Line, 61)
}

func TestFullExports(t *testing.T) {
	cfg := full(t)
	same(t, "number", len(cfg.Exports), 3)
	e := cfg.Exports[0]
	same(t, "frontend", e.Frontend, FrontendNBD)
	same(t, "listen", e.Listen, Address{"tcp", "127.0.0.1:10809"})
	same(t, "description", e.Description, "the root disk")
	same(t, "read-only because its volume is", e.ReadOnly, true)
	same(t, "line", e.Line, 64)
	same(t, "read-only by itself", cfg.Exports[1].ReadOnly, true)
	same(t, "UTF-8 name", cfg.Exports[1].Name, "größe/1")
	same(t, "empty name", cfg.Exports[2].Name, "")
	same(t, "its label", cfg.Exports[2].Label(), `export ""`)
	same(t, "writable", cfg.Exports[2].ReadOnly, false)
}

func TestDefaults(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", "/run/user/7")
	cfg := parse(t, `
[[plugin]]
name = "p"
runtime = "wasm"
path = "/p.wasm"
[[volume]]
name = "v"
plugin = "null"
`)
	e, v := cfg.Engine, cfg.Volumes[0]
	same(t, "state_dir", e.StateDir, DefaultStateDir())
	same(t, "admin", e.Admin.String(), "unix:"+DefaultStateDir()+"/admin.sock")
	same(t, "http", e.HTTP, "127.0.0.1:9177")
	same(t, "poll", e.Poll, 50*time.Microsecond)
	same(t, "reactors", e.Reactors, 0)
	same(t, "log_level", e.LogLevel, slog.LevelInfo)
	same(t, "engine's line", e.Line, 0)
	same(t, "memory", cfg.Plugins[0].Memory, 32*MiB)
	same(t, "timeout", v.Timeout, 30*time.Second)
	same(t, "fence", v.Fence, time.Minute)
	same(t, "on_lost_cache", v.OnLostCache, LostCacheError)
	same(t, "connections", v.Connections, 0)
}

func TestDefaultStateDir(t *testing.T) {
	if os.Geteuid() == 0 {
		same(t, "root", DefaultStateDir(), "/run/engine")
		return
	}
	t.Setenv("XDG_RUNTIME_DIR", "/run/user/7")
	same(t, "with XDG_RUNTIME_DIR", DefaultStateDir(), "/run/user/7/engine")
	t.Setenv("XDG_RUNTIME_DIR", "relative")
	if dir := DefaultStateDir(); !strings.HasPrefix(dir, filepath.Join(os.TempDir(), "engine-")) {
		t.Errorf("without: %s", dir)
	}
}

func TestNothingSet(t *testing.T) {
	cfg := parse(t, "")
	same(t, "sections", len(cfg.Plugins)+len(cfg.Volumes)+len(cfg.Exports), 0)
	cfg = parse(t, "[engine]\nhttp = \"\"\npoll = \"0\"\nstate_dir = \"/s\"\n")
	same(t, "http", cfg.Engine.HTTP, "")
	same(t, "poll", cfg.Engine.Poll, 0)
	same(t, "admin follows state_dir", cfg.Engine.Admin.Addr, "/s/admin.sock")
}

func TestWatch(t *testing.T) {
	cfg := parse(t, `
[[plugin]]
name = "p"
runtime = "wasm"
path = "p.wasm"
watch = "1m"
[[plugin]]
name = "off"
runtime = "wasm"
path = "p.wasm"
watch = "0"
[[plugin]]
name = "plain"
runtime = "wasm"
path = "p.wasm"
[[plugin]]
name = "memory"
runtime = "builtin"
`)
	for name, want := range map[string]time.Duration{
		"p": time.Minute, "off": 0, "plain": 10 * time.Second, "nbd": 10 * time.Second, "memory": 0, "file": 0,
	} {
		p, _ := cfg.Plugin(name)
		same(t, "watch of "+name, p.Watch, want)
		same(t, "own source of "+name, p.Own, p.Source)
	}
}

func TestMemoryIsWholePages(t *testing.T) {
	cfg := parse(t, "[[plugin]]\nname=\"p\"\nruntime=\"wasm\"\npath=\"p\"\nmemory=1048577\n")
	same(t, "memory", cfg.Plugins[0].Memory, 17*64*KiB)
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "engine.toml")
	if err := os.WriteFile(file, []byte("[engine]\nstate_dir = \"run\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "file", cfg.File, file)
	same(t, "state_dir", cfg.Engine.StateDir, filepath.Join(dir, "run"))
	t.Chdir(dir)
	if cfg, err = Load("engine.toml"); err != nil {
		t.Fatal(err)
	}
	same(t, "relative file", cfg.File, "engine.toml")
	same(t, "its directory", cfg.Engine.StateDir, filepath.Join(dir, "run"))
}

func TestLoadWhatCannotBeRead(t *testing.T) {
	t.Chdir(t.TempDir())
	large := make([]byte, MaxFileSize+1)
	for i := range large {
		large[i] = '\n'
	}
	if err := os.WriteFile("large.toml", large, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("largest.toml", large[1:], 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir("conf", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("loop", "loop"); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"none.toml":    "none.toml: there is no such file: name the configuration file with -c FILE",
		"conf":         "conf: is a directory: name the file in it, as in conf/engine.toml",
		"large.toml":   "large.toml: is larger than 1MiB: is it the configuration? name the file that is",
		"loop":         "loop: cannot be read: too many levels of symbolic links",
		"largest.toml": "",
	} {
		got := ""
		if _, err := Load(file); err != nil {
			got = err.Error()
		}
		same(t, file, got, want)
	}
}

func TestLoadWithoutPermission(t *testing.T) {
	p := openProblem("f", &os.PathError{Op: "open", Path: "f", Err: os.ErrPermission})
	if !strings.Contains(p.Error(), "f: cannot be read: permission denied: give this user (uid ") {
		t.Error(p)
	}
}

// A file with problems is still returned, so that others can add theirs.
func TestProblemsOfOthers(t *testing.T) {
	src := "[[volume]]\nname=\"v\"\nplugin=\"memory\"\ntimout=\"1s\"\n[volume.options]\nsize=\"12XB\"\ncolour=true\n"
	cfg, err := Parse("engine.toml", []byte(src))
	problems, ok := err.(Problems)
	if !ok || len(problems) != 1 || cfg == nil {
		t.Fatalf("%v %v", cfg, err)
	}
	v := &cfg.Volumes[0]
	size, _ := v.Option("size")
	_, err = size.Size()
	problems = append(problems, cfg.OptionProblem(v, size, err))
	problems = append(problems, cfg.ProblemAt(v.Place, "plugin", "is out of order", ""))
	want := `engine.toml:3: volume "v": plugin is out of order
engine.toml:4: volume "v": unknown key "timout": write "timeout", or remove it; options of the plugin belong under [volume.options]
engine.toml:6: volume "v": size "12XB" is no size: write a number with KiB, MiB, GiB or TiB, as in "4GiB"`
	same(t, "all", problems.Err().Error(), want)
	same(t, "key", problems[2].Key, `volume[1] "v".options.size`)
	if _, ok := v.Option("none"); ok {
		t.Error("an option that is not there")
	}
}
