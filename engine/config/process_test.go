package config

import (
	"reflect"
	"testing"
)

func TestProcessPlugin(t *testing.T) {
	cfg, err := Parse("/etc/engine/engine.toml", []byte(`
[[plugin]]
name = "s3"
runtime = "process"
path = "plugins/s3"
args = ["-v", "two words"]
memory = "1GiB"
cpus = 1.5
sandbox = "off"
network = true
read_write = ["cache", "/srv/s3"]
memory_sharing = "bounce"
[[plugin]]
name = "plain"
runtime = "process"
path = "/opt/plain"
[[plugin]]
name = "near"
runtime = "process"
path = "/opt/near"
memory_sharing = "guest"
[[volume]]
name = "v"
plugin = "s3"
`))
	if err != nil {
		t.Fatal(err)
	}
	want := Process{Args: []string{"-v", "two words"}, CPUs: 1.5, Sandbox: SandboxOff, Network: true,
		ReadWrite: []string{"/etc/engine/cache", "/srv/s3"}}
	p := cfg.Plugins[0]
	if !reflect.DeepEqual(p.Process, want) || p.Memory != GiB || p.Path != "/etc/engine/plugins/s3" || p.Runtime != RuntimeProcess {
		t.Errorf("got %+v", p)
	}
	p = cfg.Plugins[1]
	if !reflect.DeepEqual(p.Process, Process{Sandbox: SandboxStrict}) || p.Memory != DefaultProcessMemory || p.Watch != DefaultWatch {
		t.Errorf("without keys: %+v", p)
	}
	if p = cfg.Plugins[2]; !p.GuestMemory {
		t.Errorf("memory_sharing is lost: %+v", p)
	}
}

func TestPluginAsAnotherRuntime(t *testing.T) {
	own := Plugin{Source: Source{Runtime: RuntimeProcess, Path: "/a"}, Memory: GiB, Process: Process{CPUs: 2, Sandbox: SandboxOff}}
	if got := own.As(Source{Runtime: RuntimeProcess, Path: "/b"}); got.Path != "/b" || got.Memory != GiB || got.CPUs != 2 {
		t.Errorf("the same runtime: %+v", got)
	}
	if got := own.As(Source{Runtime: RuntimeWasm, Path: "/b.wasm"}); got.Memory != DefaultPluginMemory || got.CPUs != 0 || got.Sandbox != "" {
		t.Errorf("wasm: %+v", got)
	}
	back := own.As(Source{Runtime: RuntimeBuiltin}).As(Source{Runtime: RuntimeProcess, Path: "/c"})
	if back.Sandbox != SandboxStrict || back.Memory != DefaultProcessMemory {
		t.Errorf("a process that no section speaks of is not held: %+v", back.Process)
	}
}
