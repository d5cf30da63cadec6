package config

import (
	"os"
	"strings"
	"testing"
)

// addSources seeds a fuzz target with the files of testdata.
func addSources(f *testing.F) {
	for _, file := range []string{"testdata/full.toml", "testdata/tricky.toml", "testdata/design.toml"} {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	for _, c := range badFiles(f) {
		f.Add([]byte(c.source))
	}
}

// Whatever the file: no panic, and either a configuration or problems whose
// lines exist and whose messages stay on their line.
func FuzzParse(f *testing.F) {
	addSources(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := Parse("/etc/engine/engine.toml", data)
		if err == nil {
			checkServable(t, cfg)
			return
		}
		problems, ok := err.(Problems)
		if !ok || len(problems) == 0 {
			t.Fatalf("%T %v", err, err)
		}
		last := 1 + strings.Count(string(data), "\n")
		for i, p := range problems {
			if p.Line < 0 || p.Line > last || p.Msg == "" || i > 0 && p.Line < problems[i-1].Line {
				t.Errorf("of %d lines: %+v", last, p)
			}
			if text := p.Error() + p.Key; printable(text) != text {
				t.Errorf("a message would break its line or the terminal: %q", text)
			}
		}
	})
}

// checkServable checks what the rest of the engine relies on.
func checkServable(t *testing.T, cfg *Config) {
	volumes := make(map[string]bool)
	for i := range cfg.Volumes {
		v := &cfg.Volumes[i]
		p, ok := cfg.Plugin(v.Plugin)
		if !ok || volumes[v.Name] || !isName(v.Name) || v.Line == 0 {
			t.Errorf("volume %+v", v)
		}
		if p.Kind() == KindStore && len(v.Paths) > 0 || p.Kind() == KindProtocol && len(v.Paths) == 0 {
			t.Errorf("volume %+v with plugin %+v", v, p)
		}
		for _, path := range v.Paths {
			if path.Address.Network == "" || path.Address.Addr == "" || path.Line == 0 {
				t.Errorf("path %+v", path)
			}
		}
		for _, o := range v.Options {
			if o.Line == 0 || !isOptionValue(o.Value) {
				t.Errorf("option %+v", o)
			}
		}
		volumes[v.Name] = true
	}
	for _, e := range cfg.Exports {
		met := map[Frontend]bool{FrontendNBD: e.Listen.Addr != "", FrontendVhostUser: (e.Socket == "") != (e.Connect == "")}
		if !volumes[e.Volume] || !met[e.Frontend] || len(e.Serial) > MaxSerial || e.Line == 0 {
			t.Errorf("export %+v", e)
		}
	}
}

// Every key that the library decodes has the line on which it stands.
func FuzzLines(f *testing.F) {
	addSources(f)
	f.Fuzz(func(t *testing.T, data []byte) { checkLines(t, string(data)) })
}
