package recording

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"unsafe"

	"blockengine/engine/pluginhost/compare"
	"blockengine/engine/pluginhost/guest"
	"blockengine/sdk/abi"
	"blockengine/sdk/manifest"
)

// Replay is an order to hand a recording's events to a version of its plugin.
type Replay struct {
	Module guest.Module
	// Options replace those of the recording: secret ones, which are left out
	// there, and others.
	Options map[string]string
	Exact   bool // compare byte for byte, and call by call
}

// Result is what a replay has found.
type Result struct {
	Header      Header
	Trailer     *Trailer // nil if the file is cut short
	Connections int
	Calls       uint64
	Requests    uint64 // that were compared
	// Limits are connections that could not be compared to their end, and why.
	Limits []Found
	// Difference is the first in the file, nil if there is none.
	Difference *Found
	Cut        error // the file ends before its end
}

// Found is what was found on one connection.
type Found struct {
	Conn   uint32 // in the file
	Number uint32 // in its session
	NS     int64  // since the recording began
	Err    error
	// Events, Old and New are the call at which it was found, a line a record.
	Events, Old, New []string
}

// follower is compare.Follower or compare.Exact.
type follower interface {
	Events(b []byte)
	Actions(b []byte, more bool, err error)
	Err() error
	Calls() uint64
	Requests() uint64
}

// maxOpen bounds the instances that a file can have at a time.
const maxOpen = 1024

// Run replays a recording up to the first difference.
func (p Replay) Run(ctx context.Context, r io.Reader) (*Result, error) {
	d, err := NewReader(r)
	if err != nil {
		return nil, err
	}
	if err := p.fits(&d.Header); err != nil {
		return nil, err
	}
	run := &replay{Replay: p, res: &Result{Header: d.Header}, conns: map[uint32]*replayed{}}
	defer run.close()
	for run.res.Difference == nil {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		rec, err := d.Next()
		if errors.Is(err, io.ErrUnexpectedEOF) {
			run.res.Cut = err
			break
		}
		if err == io.EOF {
			break
		}
		if err == nil {
			err = run.record(ctx, &rec)
		}
		if err != nil {
			return nil, err
		}
	}
	for _, c := range run.conns {
		run.over(c)
	}
	run.res.Trailer = d.Trailer
	slices.SortFunc(run.res.Limits, func(a, b Found) int { return int(a.Conn) - int(b.Conn) })
	return run.res, nil
}

// fits refuses what cannot be replayed.
func (p *Replay) fits(h *Header) error {
	m := p.Module.Manifest()
	switch copies := m.Payload == manifest.Copy; {
	case m.Name != h.Name:
		return fmt.Errorf("the recording is of plugin %q, and this is %q", h.Name, m.Name)
	case copies != h.Copies:
		return errors.New("one of the two versions transforms payload and the other one does not: they are handed other events")
	case h.Copies && !h.Payload:
		return errors.New("the plugin transforms payload, which the recording leaves out: record again with --payload")
	}
	for name := range p.Options {
		if !slices.ContainsFunc(m.Options, func(o manifest.Option) bool { return o.Name == name }) {
			return fmt.Errorf("the plugin has no option %q", name)
		}
	}
	return nil
}

type replay struct {
	Replay
	res   *Result
	conns map[uint32]*replayed
}

// replayed is a connection.
type replayed struct {
	id, number uint32
	inst       *spied
	f          follower
	events     []byte
	old        []byte
	at         int64
}

// spied keeps what an instance gave in the call under way.
type spied struct {
	guest.Instance
	gave []byte
}

func (s *spied) Call(n int, budget int64) ([]byte, bool, error) {
	actions, more, err := s.Instance.Call(n, budget)
	if len(s.gave) < maxActions {
		s.gave = append(s.gave, actions...)
	}
	return actions, more, err
}

func (p *replay) record(ctx context.Context, r *Record) error {
	if r.kind == kindBegin {
		return p.begin(ctx, r)
	}
	c := p.conns[r.Conn]
	if c == nil {
		return nil // its beginning was lost, or it is over
	}
	c.at = r.NS
	switch r.kind {
	case kindEvents:
		c.events, c.inst.gave = append(c.events[:0], r.Data...), c.inst.gave[:0]
		c.f.Events(r.Data)
	case kindActions:
		b, words, trapped := r.actions()
		var err error
		if trapped {
			err = errors.New(words)
		}
		c.old = append(c.old[:0], b...)
		c.f.Actions(b, false, err)
		if c.f.Err() != nil {
			p.over(c)
		}
	case kindClosed:
		p.over(c)
	case kindLost:
		p.limit(c, fmt.Errorf("the recording of the connection ends here: %s", r.Data))
		p.over(c)
	}
	return nil
}

// begin makes an instance for a connection.
func (p *replay) begin(ctx context.Context, r *Record) error {
	o, err := r.opening()
	switch {
	case err != nil:
		return err
	case p.conns[r.Conn] != nil || len(p.conns) == maxOpen:
		return fmt.Errorf("connection %d begins twice, or more than %d are open: the file is damaged", r.Conn, maxOpen)
	}
	opened, err := p.opened(o.Opened)
	if err != nil {
		return fmt.Errorf("connection %d: %w", r.Conn, err)
	}
	inst, err := p.Module.NewInstance(ctx)
	if err != nil {
		return err
	}
	c := &replayed{id: r.Conn, number: o.Number, inst: &spied{Instance: inst}, at: r.NS}
	p.res.Connections++
	start := compare.Start{Opened: opened, Resumed: o.Resumed}
	if len(o.Limits) > 0 {
		start.Limits = o.Limits
	}
	if p.Exact {
		c.f, err = compare.FollowExactly(c.inst, start)
	} else {
		c.f, err = compare.Follow(c.inst, start)
	}
	if err != nil {
		inst.Close()
		p.res.Difference = &Found{Conn: c.id, Number: c.number, NS: c.at, Err: err, Events: compare.Describe(opened, true),
			Old: compare.Describe(start.Limits, false), New: compare.Describe(c.inst.gave, false)}
		return nil
	}
	p.conns[r.Conn] = c
	return nil
}

// over ends a connection.
func (p *replay) over(c *replayed) {
	delete(p.conns, c.id)
	p.res.Calls += c.f.Calls()
	p.res.Requests += c.f.Requests()
	c.inst.Close()
	err := c.f.Err()
	var limit *compare.Limit
	switch {
	case err == nil:
	case errors.As(err, &limit):
		p.limit(c, err)
	case p.res.Difference == nil:
		f := p.found(c, err)
		f.Events, f.Old, f.New = compare.Describe(c.events, true), compare.Describe(c.old, false), compare.Describe(c.inst.gave, false)
		p.res.Difference = &f
	}
}

func (p *replay) found(c *replayed, err error) Found {
	return Found{Conn: c.id, Number: c.number, NS: c.at, Err: err}
}

func (p *replay) limit(c *replayed, err error) {
	p.res.Limits = append(p.res.Limits, p.found(c, err))
}

func (p *replay) close() {
	for _, c := range p.conns {
		c.inst.Close()
	}
}

// opened gives the first event with the options replaced, and in the order of
// the version that gets them.
func (p *replay) opened(event []byte) ([]byte, error) {
	const fixed = int(unsafe.Sizeof(abi.Opened{}))
	e := abi.Overlay[abi.Opened](event)
	if e == nil || e.Kind != abi.EvOpened || int64(e.Size) != int64(len(event)) {
		return nil, errors.New("its Opened event is malformed")
	}
	var parts [3][]byte
	at := fixed
	for i, n := range []uint32{e.OptionsLen, e.SessionLen, e.StateLen} {
		b, ok := abi.Inline(event, at, n)
		if !ok {
			return nil, errors.New("its Opened event is malformed")
		}
		parts[i] = b
		at += abi.Align(len(b))
	}
	parts[0] = p.options(parts[0])
	size := fixed
	for _, b := range parts {
		size += abi.Align(len(b))
	}
	if size > abi.InSize {
		return nil, errors.New("the options are too long for the plugin's interface")
	}
	out := abi.Buffer(size)
	copy(out, event[:fixed])
	n := abi.Overlay[abi.Opened](out)
	n.Size, n.OptionsLen = uint32(size), uint32(len(parts[0]))
	at = fixed
	for _, b := range parts {
		copy(out[at:], b)
		at += abi.Align(len(b))
	}
	return out, nil
}

// options gives "name=value\0" in the order of the manifest.
func (p *replay) options(recorded []byte) (out []byte) {
	for _, o := range p.Module.Manifest().Options {
		value, given := p.Options[o.Name]
		for b := recorded; len(b) > 0 && !given; {
			end := slices.Index(b, 0)
			if end < 0 {
				break
			}
			if eq := slices.Index(b[:end], '='); eq >= 0 && string(b[:eq]) == o.Name {
				value, given = string(b[eq+1:end]), true
			}
			b = b[end+1:]
		}
		if given {
			out = append(append(append(append(out, o.Name...), '='), value...), 0)
		}
	}
	return out
}
