package archtest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// root is the module's directory, two above this package.
const root = "../.."

func TestImportDirections(t *testing.T) {
	edges, err := Load(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range Check(edges, Rules) {
		t.Error(v)
	}
}

// TestLoad checks against files of the project that the graph is not empty
// where the rules look: host packages, wasip1 packages, tests.
func TestLoad(t *testing.T) {
	edges, err := Load(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []Edge{
		{"./engine/sys", "golang.org/x/sys/unix", false},
		{"./engine/reactor", "./engine/sys", false},
		{"./sdk/wasm", "./sdk/protocol", false},
		{"./plugins/nbd/wasm", "./plugins/nbd", false},
		{"./plugins/nbd", "./sdk/sdktest", true},
		{"./internal/archtest", "testing", true},
	} {
		if !slices.Contains(edges, want) {
			t.Errorf("the graph lacks: %v", want)
		}
	}
}

// TestLoadIgnoredFiles puts a banned import where no platform compiles it.
func TestLoadIgnoredFiles(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "go.mod", "module example.com/m\n\ngo 1.26\n")
	write(t, dir, "sdk/a.go", "package sdk\n")
	write(t, dir, "sdk/b_plan9.go", "package sdk\n\nimport _ \"example.com/m/engine/volume\"\n")
	write(t, dir, "sdk/c_plan9_test.go", "package sdk\n\nimport _ \"golang.org/x/sys/unix\"\n")
	edges, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := []Edge{{"./sdk", "golang.org/x/sys/unix", true}, {"./sdk", "./engine/volume", false}}
	if !slices.Equal(edges, want) {
		t.Errorf("edges %v, want %v", edges, want)
	}
}

func TestLoadReportsBrokenModule(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "go.mod", "module example.com/m\n\ngo 1.26\n")
	write(t, dir, "a.go", "package {\n")
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "go list") {
		t.Errorf("error %v, want one that shows what go list said", err)
	}
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// examples has for each rule imports that it must report and imports that it
// must not. The latter may be banned by another rule.
var examples = map[string]struct{ bad, good []Edge }{
	"sdk stands alone": {
		bad:  []Edge{{"./sdk/block", "./engine/volume", false}, {"./sdk/sdktest", "./plugins/nbd", true}},
		good: []Edge{{"./sdk/protocol", "./sdk/abi", false}, {"./sdk/sdktest", "net", false}, {"./engine/volume", "./sdk/block", false}},
	},
	"sdk has no dependencies": {
		bad:  []Edge{{"./sdk/abi", "github.com/x/y", false}, {"./sdk/store", "golang.org/x/sys/unix", false}},
		good: []Edge{{"./sdk/abi", "unsafe", false}, {"./sdk/process", "google.golang.org/grpc", false}, {"./sdk/sdktest", "github.com/x/y", true}, {"./engine/sys", "golang.org/x/sys/unix", false}},
	},
	"guests have no system": {
		bad: []Edge{{"./sdk/block", "fmt", false}, {"./sdk/abi", "os", false}, {"./sdk/protocol", "net/url", false},
			{"./sdk/wasm", "time", false}, {"./sdk/manifest", "crypto/rand", false}, {"./sdk/wasm", "math/rand/v2", false}},
		good: []Edge{{"./sdk/block", "fmt", true}, {"./sdk/store", "time", false}, {"./sdk/protocol", "math/bits", false}},
	},
	"plugins know only sdk": {
		bad: []Edge{{"./plugins/nbd", "./engine/sys", false}, {"./plugins/nbd/wasm", "./plugins/iscsi", false}},
		good: []Edge{{"./plugins/nbd", "./sdk/protocol", false}, {"./plugins/nbd/wasm", "./plugins/nbd", false},
			{"./plugins/nbd", "./internal/nbdtest", true}},
	},
	"frontends know the submission seam": {
		bad: []Edge{{"./frontends/nbd", "./engine/pluginhost", false}, {"./frontends/ublk", "./plugins/nbd", false},
			{"./frontends/nbd", "./sdk/protocol", false}, {"./frontends/nbd", "./engine/session", false}},
		good: []Edge{{"./frontends/nbd", "./engine/volume", false}, {"./frontends/nbd", "./engine/pluginhost", true},
			{"./frontends/nbd", "./sdk/block", false}},
	},
	"frontends are apart": {
		bad:  []Edge{{"./frontends/nbd", "./frontends/ublk", false}, {"./frontends/ublk", "./frontends/virtqueue", false}},
		good: []Edge{{"./frontends/nbd", "./frontends/nbd/wire", false}, {"./frontends/vhostuser", "./frontends/virtioblk", false}},
	},
	"vhostuser builds on virtio": {
		bad:  []Edge{{"./frontends/vhostuser", "./frontends/nbd", false}},
		good: []Edge{{"./frontends/vhostuser", "./frontends/virtqueue", false}, {"./frontends/nbd", "./frontends/ublk", false}},
	},
	"one door to the kernel": {
		bad:  []Edge{{"./frontends/nbd", "golang.org/x/sys/unix", false}, {"./engine/reactor", "golang.org/x/sys/cpu", true}},
		good: []Edge{{"./engine/sys", "golang.org/x/sys/unix", false}, {"./engine/reactor", "syscall", false}},
	},
	"sys is the floor": {
		bad:  []Edge{{"./engine/sys", "./engine/reactor", false}, {"./engine/sys", "./sdk/block", false}},
		good: []Edge{{"./engine/sys", "syscall", false}},
	},
	"config reads a file": {
		bad:  []Edge{{"./engine/config", "./engine/pluginhost", false}},
		good: []Edge{{"./engine/config", "github.com/BurntSushi/toml", false}, {"./engine/pluginhost", "./engine/config", false}},
	},
	"reactor knows no requests": {
		bad:  []Edge{{"./engine/reactor", "./sdk/block", false}, {"./engine/reactor", "./engine/transport", false}},
		good: []Edge{{"./engine/reactor", "./engine/sys", false}},
	},
	"transport moves bytes": {
		bad:  []Edge{{"./engine/transport", "./engine/session", false}, {"./engine/transport", "./sdk/abi", false}},
		good: []Edge{{"./engine/transport", "./engine/reactor", false}},
	},
	"volume decides, others carry out": {
		bad: []Edge{{"./engine/volume", "./engine/session", false}, {"./engine/volume", "./engine/pluginhost/guest", false},
			{"./engine/volume", "./engine/transport", false}, {"./engine/volume", "./frontends/nbd", false}},
		good: []Edge{{"./engine/volume", "./sdk/store", false}, {"./engine/volume", "./engine/session", true}},
	},
	"session serves any plugin": {
		bad: []Edge{{"./engine/session", "./frontends/nbd", false}, {"./engine/session", "./engine/pluginhost", false},
			{"./engine/session", "./engine/pluginhost/wasm", false}},
		good: []Edge{{"./engine/session", "./engine/pluginhost/guest", false}, {"./engine/session", "./plugins/nbd", true}},
	},
	"comparing is no doing": {
		bad:  []Edge{{"./engine/pluginhost/compare", "./engine/session", false}, {"./engine/pluginhost/compare", "./engine/transport", false}},
		good: []Edge{{"./engine/pluginhost/compare", "./sdk/abi", false}, {"./engine/pluginhost/compare", "./engine/pluginhost/guest", false}},
	},
	"guest is a face": {
		bad:  []Edge{{"./engine/pluginhost/guest", "./engine/session", false}},
		good: []Edge{{"./engine/pluginhost/guest", "./sdk/abi", false}, {"./engine/pluginhost/guest", "./engine/reactor", false}},
	},
	"processes speak go-plugin": {
		bad: []Edge{{"./engine/pluginhost", "github.com/hashicorp/go-plugin", false}, {"./sdk/store", "google.golang.org/grpc/codes", false}},
		good: []Edge{{"./engine/pluginhost/process", "github.com/hashicorp/go-plugin", false}, {"./sdk/process", "google.golang.org/grpc", false},
			{"./engine/session", "github.com/hashicorp/go-plugin", true}},
	},
	"processes are a runtime": {
		bad:  []Edge{{"./engine/pluginhost/process", "./engine/session", false}, {"./engine/pluginhost/process", "./engine/pluginhost/wasm", false}},
		good: []Edge{{"./engine/pluginhost/process", "./engine/pluginhost/guest", false}, {"./engine/pluginhost/process", "./sdk/process/ring", false}},
	},
	"the sandbox holds any process": {
		bad:  []Edge{{"./engine/pluginhost/sandbox", "./engine/pluginhost/process", false}, {"./engine/pluginhost/sandbox", "./sdk/abi", false}},
		good: []Edge{{"./engine/pluginhost/sandbox", "./engine/sys", false}},
	},
	"wasm runs modules": {
		bad:  []Edge{{"./engine/pluginhost/wasm", "./engine/transport", false}, {"./engine/pluginhost/wasm", "./engine/pluginhost/builtin", false}},
		good: []Edge{{"./engine/pluginhost/wasm", "./engine/pluginhost/wasm/meter", false}, {"./engine/pluginhost/wasm", "./sdk/abi", false}},
	},
	"builtin stores are plugins": {
		bad:  []Edge{{"./engine/pluginhost/builtin", "./engine/volume", false}, {"./engine/pluginhost/builtin", "./engine/reactor", false}},
		good: []Edge{{"./engine/pluginhost/builtin", "./engine/sys", false}, {"./engine/pluginhost/builtin", "./sdk/store", false}},
	},
	"plugins are linked in one place": {
		bad:  []Edge{{"./engine/pluginhost", "./plugins/nbd", false}},
		good: []Edge{{"./engine", "./plugins/nbd", false}},
	},
	"frontends are wired in one place": {
		bad:  []Edge{{"./engine/metrics", "./frontends/nbd", false}},
		good: []Edge{{"./engine", "./frontends/nbd", false}},
	},
	"the command is nobody's library": {
		bad:  []Edge{{"./bench", "./engine", false}, {"./engine/admin", "./engine", true}},
		good: []Edge{{"./engine", "./engine/admin", false}},
	},
	"wazero has one user": {
		bad:  []Edge{{"./engine/pluginhost", "github.com/tetratelabs/wazero/api", false}, {"./engine", "github.com/tetratelabs/wazero", false}},
		good: []Edge{{"./engine/pluginhost/wasm", "github.com/tetratelabs/wazero", false}, {"./plugins/nbd", "github.com/tetratelabs/wazero", true}},
	},
	"cobra has one user": {
		bad:  []Edge{{"./engine/config", "github.com/spf13/pflag", false}, {"./bench", "github.com/spf13/cobra", true}},
		good: []Edge{{"./engine", "github.com/spf13/cobra", false}},
	},
	"prometheus has one user": {
		bad:  []Edge{{"./engine/volume", "github.com/prometheus/client_golang/prometheus", false}},
		good: []Edge{{"./engine/metrics", "github.com/prometheus/client_golang/prometheus", false}},
	},
	"TOML has one user": {
		bad:  []Edge{{"./engine", "github.com/BurntSushi/toml", false}},
		good: []Edge{{"./engine/config", "github.com/BurntSushi/toml", false}},
	},
	"test kits are for tests": {
		bad: []Edge{{"./engine", "./internal/vmtest", false}, {"./bench", "./internal/nbdtest", false}, {"./engine/volume", "testing", false}},
		good: []Edge{{"./engine/session", "./internal/nbdtest", true}, {"./internal/nbdtest", "testing", false},
			{"./sdk/sdktest/testplugins/tiny", "testing", false}},
	},
	"the conformance suite has one user": {
		bad: []Edge{{"./engine", "./sdk/sdktest", false}, {"./engine/pluginhost", "./sdk/sdktest", false}},
		good: []Edge{{"./engine/kit", "./sdk/sdktest", false}, {"./plugins/nbd", "./sdk/sdktest", true},
			{"./sdk/sdktest/badplugins", "./sdk/sdktest/testplugins/tiny", false}},
	},
	"the conformance suite is no test": {
		bad:  []Edge{{"./sdk/sdktest", "testing", false}, {"./sdk/sdktest", "testing/quick", false}},
		good: []Edge{{"./sdk/sdktest", "testing", true}, {"./sdk/sdktest", "math/rand/v2", false}},
	},
	"the kit is for authors": {
		bad:  []Edge{{"./engine/pluginhost", "./engine/kit", false}, {"./engine/config", "./sdk", false}},
		good: []Edge{{"./engine", "./engine/kit", false}, {"./engine/kit", "./examples", false}, {"./engine/session", "./sdk/block", false}},
	},
	"examples know only sdk": {
		bad: []Edge{{"./examples/protocol-go", "./engine/sys", false}, {"./examples/protocol-go", "./plugins/nbd", false}},
		good: []Edge{{"./examples/protocol-go", "./sdk/protocol", false}, {"./examples/protocol-go/wasm", "./examples/protocol-go", false},
			{"./examples", "./engine/pluginhost/wasm", true}},
	},
	"the benchmark is a stranger": {
		bad:  []Edge{{"./bench", "./engine/config", false}},
		good: []Edge{{"./bench", "os", false}, {"./bench", "./engine/config", true}, {"./bench", "./internal/nbdload", false}},
	},
	"the load client is a stranger": {
		bad:  []Edge{{"./internal/nbdload", "./engine/sys", false}, {"./internal/nbdload", "./plugins/nbd", false}},
		good: []Edge{{"./internal/nbdload", "net", false}, {"./internal/nbdload", "./internal/nbdtest", true}},
	},
	"the virtual machine is a stranger": {
		bad:  []Edge{{"./internal/vhosttest", "./frontends/virtqueue", false}, {"./internal/vhosttest", "./engine/volume", false}},
		good: []Edge{{"./internal/vhosttest", "./engine/sys", false}, {"./internal/vhosttest", "./internal/nbdtest", true}},
	},
}

// TestEveryRuleBites gives each rule a graph that breaks it, and one that only
// seems to.
func TestEveryRuleBites(t *testing.T) {
	for i := range Rules {
		r := &Rules[i]
		t.Run(r.Name, func(t *testing.T) {
			x, ok := examples[r.Name]
			if !ok || len(x.bad) == 0 || len(x.good) == 0 {
				t.Fatal("no examples for this rule")
			}
			for _, e := range x.bad {
				if got := brokenBy(e); !slices.Contains(got, r.Name) {
					t.Errorf("not reported: %v (other rules that do: %q)", e, got)
				}
			}
			for _, e := range x.good {
				if got := brokenBy(e); slices.Contains(got, r.Name) {
					t.Errorf("reported without reason: %v", e)
				}
			}
		})
	}
	if len(examples) != len(Rules) {
		t.Errorf("%d sets of examples for %d rules: a name is used twice or has no rule", len(examples), len(Rules))
	}
}

// brokenBy gives the names of the rules that ban an edge.
func brokenBy(e Edge) []string {
	var names []string
	for _, v := range Check([]Edge{e}, Rules) {
		names = append(names, v.Rule.Name)
	}
	return names
}

func TestViolationSaysWhy(t *testing.T) {
	e := Edge{"./engine/sys", "./engine/volume", false}
	for _, v := range Check([]Edge{e}, Rules) {
		text := fmt.Sprint(v)
		for _, want := range []string{e.From, e.To, v.Rule.Name, v.Rule.Reason} {
			if want == "" || !strings.Contains(text, want) {
				t.Errorf("%q is not in: %s", want, text)
			}
		}
	}
}

func TestMatch(t *testing.T) {
	for _, x := range []struct {
		pattern, path, importer string
		want                    bool
	}{
		{"./engine", "./engine", "", true},
		{"./engine", "./engine/sys", "", false},
		{"./engine/...", "./engine", "", true},
		{"./engine/...", "./engine/sys", "", true},
		{"./engine/...", "./engineering", "", false},
		{"./...", "./engine", "", true},
		{"./...", ".", "", true},
		{"./...", "net", "", false},
		{"net/...", "net", "", true},
		{"net/...", "net/http", "", true},
		{"net/...", "network", "", false},
		{sameUnit, "./plugins/nbd/wasm", "./plugins/nbd", true},
		{sameUnit, "./plugins/nbd", "./plugins/nbdx", false},
		{sameUnit, "./plugins/nbd", "./frontends/nbd", false},
	} {
		if got := match(x.pattern, x.path, x.importer); got != x.want {
			t.Errorf("match(%q, %q, %q) = %v", x.pattern, x.path, x.importer, got)
		}
	}
}
