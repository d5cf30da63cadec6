package wasm

import (
	"strings"
	"testing"

	"blockengine/sdk/abi"
)

func TestInspectGoGuest(t *testing.T) {
	path, err := echoFile()
	if err != nil {
		t.Fatal(err)
	}
	r, err := InspectFile(path)
	if err != nil || r.Problem != "" {
		t.Fatal(err, r)
	}
	if r.Manifest == nil || r.Manifest.Name != "echo" || r.ABI != abiText(abi.Version) || len(r.SHA256) != 64 || r.Size == 0 ||
		r.Functions == 0 || r.MemoryMax != DefaultMemory || len(r.Exports) < 6 {
		t.Errorf("%+v", r)
	}
	for _, i := range r.Imports {
		if !i.Allowed || i.Why != "" {
			t.Errorf("%+v", i)
		}
	}
}

// TestInspectTellsAllItCan: a refused module's report still lists what it asks
// for, with the verdicts.
func TestInspectTellsAllItCan(t *testing.T) {
	m := module{imports: []imp{wasiImport("fd_read", 1, tI32, tI32, tI32, tI32), wasiImport("sched_yield", 1)}}
	r, err := InspectFile(m.file(t))
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Imports) != 2 || r.Imports[0].Allowed || r.Imports[0].Class != "files" || r.Imports[0].Why == "" || !r.Imports[1].Allowed {
		t.Errorf("%+v", r.Imports)
	}
	if !strings.Contains(r.Problem, "fd_read (files)") || r.Manifest != nil || r.MemoryMin != 4<<16 {
		t.Errorf("%+v", r)
	}
}

func TestInspectProblems(t *testing.T) {
	for name, c := range map[string]struct {
		b     []byte
		words string
	}{
		"no module":     {[]byte("hello"), "no WebAssembly module"},
		"other ABI":     {module{abi: 9 << 16}.bytes(), "speaks version 9.0"},
		"invalid":       {module{call: ops(opDrop, constI32(0))}.bytes(), "no valid"},
		"never started": {module{start: forever}.bytes(), "budget"},
		"recursion":     {module{init: ops(opCall, 4)}.bytes(), "depth"},
		"export":        {module{without: abi.ExportCall}.bytes(), abi.ExportCall},
	} {
		r, err := InspectFile(writeModule(t, c.b))
		if err != nil || !strings.Contains(r.Problem, c.words) {
			t.Errorf("%s: %v %q", name, err, r.Problem)
		}
	}
	if r, _ := InspectFile(module{abi: 9 << 16}.file(t)); r.ABI != "9.0" {
		t.Errorf("ABI %q", r.ABI)
	}
	if _, err := InspectFile("/nonexistent.wasm"); err == nil {
		t.Error("a file that is not there gives a report")
	}
}
