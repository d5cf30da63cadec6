package pluginhost

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"strings"
	"testing"

	"blockengine/engine/config"
	"blockengine/sdk/manifest"
	"blockengine/sdk/store"
)

// everything has an option of each type.
var everything = &Plugin{Name: "everything", Kind: Store, Runtime: config.RuntimeBuiltin, Options: []manifest.Option{
	{Name: "size", Type: manifest.Size, Required: true, Help: "size of the disk"},
	{Name: "path", Type: manifest.Path},
	{Name: "direct", Type: manifest.Bool},
	{Name: "workers", Type: manifest.Int},
	{Name: "label", Type: manifest.String},
	{Name: "token", Type: manifest.String, Secret: true},
}}

// parse reads a configuration with one volume whose options are given.
func parse(t *testing.T, options string) (*config.Config, *config.Volume) {
	t.Helper()
	text := "[[volume]]\nname = \"v\"\nplugin = \"memory\"\n[volume.options]\n" + options
	cfg, err := config.Parse(filepath.Join("/etc/engine", "engine.toml"), []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return cfg, &cfg.Volumes[0]
}

func TestOptionProblems(t *testing.T) {
	for _, tc := range []struct{ name, options, want string }{
		{"missing", `label = "x"`,
			`/etc/engine/engine.toml:4: volume "v" has no option size: plugin "everything" needs it, write size = "1GiB" under [volume.options] (size of the disk)`},
		{"near", "size = 1\nwrokers = 2",
			`/etc/engine/engine.toml:6: volume "v": wrokers is no option of plugin "everything": write "workers", or remove it`},
		{"far", "size = 1\nencryption = true",
			`/etc/engine/engine.toml:6: volume "v": encryption is no option of plugin "everything": its options are size, path, direct, workers, label, token`},
		{"size", `size = "12XB"`,
			`/etc/engine/engine.toml:5: volume "v": size "12XB" is no size: write a number with KiB, MiB, GiB or TiB, as in "4GiB"`},
		{"bool", "size = 1\ndirect = \"yes\"",
			`/etc/engine/engine.toml:6: volume "v": direct is the string "yes", not a boolean: write true or false, without quotes`},
		{"int", "size = 1\nworkers = -1",
			`/etc/engine/engine.toml:6: volume "v": workers -1 is negative: write 0 or more`},
		{"path", "size = 1\npath = \"\"",
			`/etc/engine/engine.toml:6: volume "v": path is an empty path: write a path`},
		{"NUL", "size = 1\nlabel = \"a\\u0000b\"",
			`/etc/engine/engine.toml:6: volume "v": label holds a NUL byte: remove it`},
		{"long", "size = 1\nlabel = \"" + strings.Repeat("x", maxEncoded) + "\"",
			fmt.Sprintf(`/etc/engine/engine.toml:4: volume "v": options have %d bytes, a plugin takes at most %d: shorten them`,
				maxEncoded+len("size=1\x00label=\x00"), maxEncoded)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg, v := parse(t, tc.options)
			_, problems := everything.Check(cfg, v)
			if got := problems.Error(); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

func TestAllProblemsAtOnce(t *testing.T) {
	cfg, v := parse(t, "direct = 1\nworkers = \"a\"\nnope = 1")
	_, problems := everything.Check(cfg, v)
	if len(problems) != 4 {
		t.Errorf("%d problems, want missing size, direct, workers and nope:\n%v", len(problems), problems)
	}
}

func TestSecretStaysSecret(t *testing.T) {
	cfg, v := parse(t, "size = 1\ntoken = \"hunter2\"")
	vals, problems := everything.Check(cfg, v)
	if problems != nil {
		t.Fatal(problems)
	}
	if got := vals.Store(v).Strings["token"]; got != "hunter2" {
		t.Errorf("the plugin got token %q", got)
	}
	for _, shown := range []string{fmt.Sprint(vals), fmt.Sprintf("%+v", vals), fmt.Sprintf("%#v", vals), fmt.Sprint(vals.Shown())} {
		if strings.Contains(shown, "hunter2") {
			t.Errorf("the secret is shown: %s", shown)
		}
	}
	cfg, v = parse(t, "size = 1\ntoken = 42424242")
	_, problems = everything.Check(cfg, v)
	if len(problems) != 1 || strings.Contains(problems.Error(), "42424242") {
		t.Errorf("a wrong secret must be refused without being shown: %v", problems)
	}
}

func TestEncodedAndStore(t *testing.T) {
	cfg, v := parse(t, "label = \"a=b\"\ndirect = true\nworkers = 7\npath = \"d/x.img\"\nsize = \"2KiB\"")
	vals, problems := everything.Check(cfg, v)
	if problems != nil {
		t.Fatal(problems)
	}
	// The manifest's order, whatever the file's.
	want := "size=2048\x00path=/etc/engine/d/x.img\x00direct=true\x00workers=7\x00label=a=b\x00"
	if got := string(vals.Encoded()); got != want {
		t.Errorf("encoded %q, want %q", got, want)
	}
	o := vals.Store(v)
	if o.Volume != "v" || !maps.Equal(o.Sizes, map[string]uint64{"size": 2048, "workers": 7}) ||
		!maps.Equal(o.Bools, map[string]bool{"direct": true}) ||
		!maps.Equal(o.Strings, map[string]string{"path": "/etc/engine/d/x.img", "label": "a=b"}) {
		t.Errorf("store options %+v", o)
	}
}

// A plugin from a file tells that it needs a server by its manifest only.
func TestProtocolNeedsPath(t *testing.T) {
	cfg, v := parse(t, "")
	p := &Plugin{Name: "p", Kind: Protocol, Runtime: config.RuntimeWasm}
	_, problems := p.Check(cfg, v)
	if len(problems) != 1 || !strings.Contains(problems[0].Msg, "has no path") || problems[0].Line != 1 {
		t.Errorf("got %v", problems)
	}
}

func TestNearest(t *testing.T) {
	names := []string{"export", "connections", "size"}
	for word, want := range map[string]string{"exprot": "export", "Export": "export", "conections": "connections",
		"siz": "size", "volume": "", strings.Repeat("x", 100): ""} {
		if got := nearest(word, names); got != want {
			t.Errorf("nearest(%.20q) = %q, want %q", word, got, want)
		}
	}
}

func TestLoadReportsEachPlugin(t *testing.T) {
	dir := t.TempDir()
	text := `[[plugin]]
name = "gone"
runtime = "wasm"
path = "gone.wasm"
[[plugin]]
name = "text"
runtime = "wasm"
path = "engine.toml"
[[volume]]
name = "m"
plugin = "memory"
`
	file := filepath.Join(dir, "engine.toml")
	writeFile(t, file, text)
	cfg, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	r, problems := Load(context.Background(), cfg, Options{
		Builtins: Builtins{Stores: []store.Plugin{&fakeStore{}}}, Log: slog.New(slog.DiscardHandler)})
	if len(problems) != 2 || problems[0].Line != 4 || problems[1].Line != 8 {
		t.Fatalf("want problems on lines 4 and 8, got:\n%v", problems)
	}
	if !strings.Contains(problems[0].Error(), "make plugins") || !strings.Contains(problems[1].Msg, "no WebAssembly module") {
		t.Errorf("the problems do not say what is wrong:\n%v", problems)
	}
	if p := r.Find("memory"); p == nil || p.Kind != Store || p.Version != "7" || p.Generation != 1 {
		t.Errorf("the builtin plugin is not loaded as it should be: %+v", p)
	}
}
