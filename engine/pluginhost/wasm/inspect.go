package wasm

import (
	"context"

	"github.com/tetratelabs/wazero"

	"blockengine/engine/pluginhost/wasm/meter"
	"blockengine/sdk/manifest"
)

// inspectBudget is what a module may spend on its initialisation in the
// interpreter, where a tick can take 0.1 µs: a second. A Go guest spends a
// million.
const inspectBudget = 10_000_000

// Report is what can be told of a file without serving anything with it.
type Report struct {
	Path   string `json:"path"`
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"` // bytes

	ABI      string             `json:"abi,omitempty"` // "1.0"; "" if it could not be asked
	Manifest *manifest.Manifest `json:"manifest,omitempty"`

	Imports []Import `json:"imports"`
	Exports []Export `json:"exports"`

	Functions int    `json:"functions"`
	MemoryMin uint64 `json:"memory_min"` // bytes that an instance starts with
	MemoryMax uint64 `json:"memory_max"` // bytes, under the default cap
	HasStart  bool   `json:"has_start"`

	// Problem is why the engine would refuse the file, "" if it would not.
	Problem string `json:"problem,omitempty"`
}

// Export is one export of a module.
type Export struct {
	Name string `json:"name"`
	Kind string `json:"kind"`
	Type string `json:"type,omitempty"` // of a function
}

// InspectFile reports on a file, whether the engine would load it or not. The
// error tells only that the file could not be read. The module runs, metered
// and in the interpreter, far enough to give its manifest.
func InspectFile(path string) (*Report, error) {
	o := &Options{Path: path, initBudget: inspectBudget}
	if err := o.complete(); err != nil {
		return nil, err
	}
	lim := limits(o.Memory)
	src, err := readSource(path, int64(lim.MaxModuleBytes))
	if err != nil {
		return nil, err
	}
	r := &Report{Path: path, SHA256: src.hash, Size: int64(len(src.bytes))}
	if err := r.fill(src, lim, o); err != nil {
		r.Problem = err.Error()
	}
	return r, nil
}

// fill goes as far as the module lets it and says what stopped it.
func (r *Report) fill(src *source, lim meter.Limits, o *Options) error {
	if err := src.magic(); err != nil {
		return err
	}
	info, err := meter.Inspect(src.bytes, lim)
	if err != nil {
		return err
	}
	r.declared(info)
	p, err := prepare(src, lim)
	if err != nil {
		return err
	}
	ctx := context.Background()
	if err := validate(ctx, src.bytes); err != nil {
		return err
	}
	m := newModule(src, o)
	defer func() { _ = m.Close() }()
	defer m.release()
	if err := m.link(ctx, config(wazero.NewRuntimeConfigInterpreter()), p.rewritten); err != nil {
		return err
	}
	return r.asked(ctx, m)
}

// declared fills in what the module says without running.
func (r *Report) declared(info *meter.Info) {
	for i := range info.Imports {
		r.Imports = append(r.Imports, judge(&info.Imports[i]))
	}
	for i := range info.Exports {
		e := &info.Exports[i]
		x := Export{Name: e.Name, Kind: e.Kind.String()}
		if e.Kind == meter.KindFunc {
			x.Type = typeText(&e.Type)
		}
		r.Exports = append(r.Exports, x)
	}
	r.Functions, r.HasStart = info.Functions, info.HasStart
	r.MemoryMin = uint64(info.MemoryMin) * meter.PageBytes
	r.MemoryMax = uint64(info.MemoryMax) * meter.PageBytes
}

// asked fills in what the module says when it runs.
func (r *Report) asked(ctx context.Context, m *Module) error {
	err := m.probe(ctx)
	if m.version != 0 {
		r.ABI = abiText(m.version)
	}
	if m.manifest.Name != "" {
		r.Manifest = &m.manifest
	}
	return err
}
