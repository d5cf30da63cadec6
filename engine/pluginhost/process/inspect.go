package process

import (
	"context"

	"blockengine/sdk/manifest"
	calls "blockengine/sdk/process/control"
)

// Report is what can be told of a program without serving anything with it.
type Report struct {
	Path   string `json:"path"`
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"` // bytes

	Kind     calls.Kind         `json:"kind,omitempty"`
	ABI      string             `json:"abi,omitempty"` // "1.0"
	Manifest *manifest.Manifest `json:"manifest,omitempty"`
	// FenceOnExit of a store: what it was doing is over when its process is.
	FenceOnExit bool `json:"fence_on_exit,omitempty"`

	// Problem is why the engine would refuse the file, "" if it would not.
	Problem string `json:"problem,omitempty"`
}

// Inspect reports on a program, whether the engine would load it or not. The
// error tells only that the file could not be read. The program runs, in the
// sandbox, far enough to give its manifest.
func Inspect(ctx context.Context, o Options) (*Report, error) {
	p, err := openProgram(o.Path, o.SHA256)
	if err != nil {
		return nil, err
	}
	r := &Report{Path: o.Path, SHA256: p.hash, Size: p.size}
	if err := p.close(); err != nil {
		return nil, err
	}
	o.SHA256 = r.SHA256 // what is loaded is what was reported on
	l, err := Load(ctx, o)
	if err != nil {
		r.Problem = err.Error()
		return r, nil
	}
	h := l.host
	m := h.manifest
	r.Kind, r.ABI, r.Manifest, r.FenceOnExit = h.said.Kind, versionText(h.said.ABI), &m, h.said.FenceOnExit
	return r, l.Close()
}
