package wasm

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"blockengine/engine/pluginhost/wasm/meter"
	"blockengine/sdk/abi"
)

// Import is one import of a module with the engine's verdict on it.
type Import struct {
	Module  string `json:"module"`
	Name    string `json:"name"`
	Type    string `json:"type"` // "(i32, i32) -> i32"
	Allowed bool   `json:"allowed"`
	// Class is the authority that the import asks for, "files" for example;
	// "none" for the allowed ones.
	Class string `json:"class"`
	Why   string `json:"why,omitempty"` // why it is refused
}

// judge gives the verdict on an import. Only the functions that hostFuncs
// serves are allowed, with exactly their types.
func judge(im *meter.Import) Import {
	v := Import{Module: im.Module, Name: im.Name, Type: typeText(&im.Type), Class: class(im)}
	f := hostFuncNamed(im.Module, im.Name)
	switch {
	case f == nil:
		v.Why = remedy(v.Class)
	case !sameType(&f.typ, &im.Type):
		v.Class = "none"
		v.Why = "it has the wrong type, " + typeText(&f.typ) + " is right: build with a toolchain that knows WASI preview 1"
	default:
		v.Class, v.Allowed = "none", true
	}
	return v
}

// class names the authority behind an import that is not served.
func class(im *meter.Import) string {
	n := im.Name
	switch {
	case im.Module == "wasi" && strings.HasPrefix(n, "thread"):
		return "threads"
	case !strings.HasPrefix(im.Module, "wasi"):
		return "functions of another host"
	case strings.HasPrefix(n, "path_"), strings.HasPrefix(n, "fd_"):
		return "files"
	case strings.HasPrefix(n, "sock_"):
		return "sockets"
	case strings.HasPrefix(n, "clock_"):
		return "clocks"
	case strings.HasPrefix(n, "proc_"):
		return "processes"
	}
	return "system calls"
}

// remedy says why a class is refused and what to do about it.
func remedy(class string) string {
	switch class {
	case "files":
		return "a protocol plugin has no files. In Go package os brings this import in, and fmt, log and encoding/json bring in os: use strconv and errors, and Actions.Log to log"
	case "sockets":
		return "a protocol plugin has no sockets: the engine owns the connection, ask it with Actions.Send and Actions.Want"
	case "clocks":
		return "a protocol plugin has no clock: the time comes with Opened and Timer"
	case "threads":
		return "a protocol plugin has one thread: build without threads"
	case "processes":
		return "a protocol plugin has no processes or signals"
	case "functions of another host":
		return "the engine gives a plugin no such function: build for wasip1 without bindings to a browser or another host"
	}
	return "a protocol plugin reaches nothing but its own memory: take out what needs this"
}

// checkImports refuses a module for the first import that is not allowed, and
// names all others.
func checkImports(info *meter.Info) error {
	var refused []Import
	for i := range info.Imports {
		if v := judge(&info.Imports[i]); !v.Allowed {
			refused = append(refused, v)
		}
	}
	if len(refused) == 0 {
		return nil
	}
	v := &refused[0]
	what := v.Class
	if what == "none" {
		what = v.Type
	}
	more := ""
	if len(refused) > 1 {
		names := make([]string, 0, 8)
		for _, r := range refused[1:min(len(refused), 9)] {
			names = append(names, r.Name)
		}
		if len(refused) > 9 {
			names = append(names, fmt.Sprintf("and %d more", len(refused)-9))
		}
		more = " (also refused: " + strings.Join(names, ", ") + ")"
	}
	return fmt.Errorf("imports %s.%s (%s): %s%s", v.Module, v.Name, what, v.Why, more)
}

// wanted is an export that a plugin must have.
type wanted struct {
	name     string
	typ      meter.FuncType
	optional bool
}

var i32s = []meter.ValueType{meter.I32, meter.I32}

var wantedExports = []wanted{
	{name: abi.ExportABI, typ: meter.FuncType{Results: i32s[:1]}},
	{name: abi.ExportManifest, typ: meter.FuncType{Results: []meter.ValueType{meter.I64}}},
	{name: abi.ExportBuffers, typ: meter.FuncType{Params: i32s, Results: i32s[:1]}},
	{name: abi.ExportCall, typ: meter.FuncType{Params: i32s[:1], Results: i32s[:1]}},
	{name: abi.ExportInit, optional: true},
}

// wrapped are the exports that the rewriter gives a budget.
func wrapped() []string {
	names := make([]string, len(wantedExports))
	for i := range wantedExports {
		names[i] = wantedExports[i].name
	}
	return names
}

// checkExports says which export is missing or of the wrong type.
func checkExports(info *meter.Info) error {
	var errs []error
	for i := range wantedExports {
		w := &wantedExports[i]
		e := info.Export(w.name)
		switch {
		case e == nil && w.optional:
		case e == nil:
			errs = append(errs, fmt.Errorf("does not export %s, %s: a protocol plugin in Go calls wasm.Serve of blockengine/sdk/wasm in an init function and is built with -buildmode=c-shared; in other languages export it as sdk/PLUGIN.md says", w.name, typeText(&w.typ)))
		case e.Kind != meter.KindFunc:
			errs = append(errs, fmt.Errorf("exports %s as a %v: it must be a function %s", w.name, e.Kind, typeText(&w.typ)))
		case !sameType(&e.Type, &w.typ):
			errs = append(errs, fmt.Errorf("exports %s as %s: it must be %s (see sdk/PLUGIN.md)", w.name, typeText(&e.Type), typeText(&w.typ)))
		}
	}
	if e := info.Export("memory"); e == nil || e.Kind != meter.KindMemory {
		errs = append(errs, errors.New(`does not export its memory under the name "memory": define one memory and export it`))
	}
	if len(errs) == 0 {
		return nil
	}
	return errs[0]
}

func sameType(a, b *meter.FuncType) bool {
	return slices.Equal(a.Params, b.Params) && slices.Equal(a.Results, b.Results)
}

// typeText writes a signature as PLUGIN.md does: (i32, i32) -> i32.
func typeText(t *meter.FuncType) string {
	list := func(ts []meter.ValueType) string {
		names := make([]string, len(ts))
		for i, v := range ts {
			names[i] = v.String()
		}
		return strings.Join(names, ", ")
	}
	results := list(t.Results)
	if len(t.Results) != 1 {
		results = "(" + results + ")"
	}
	return "(" + list(t.Params) + ") -> " + results
}
