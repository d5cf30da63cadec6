package main

import (
	"sync"
	"time"

	"blockengine/engine/metrics"
	"blockengine/sdk/block"
)

// samplePatience is how long reactors have to tell what they have counted.
const samplePatience = time.Second

// sampler asks the reactors what they have counted, one sample at a time, and
// never lets who asks wait for one that hangs.
type sampler struct {
	collect func() metrics.Snapshot

	mu      sync.Mutex // guards what follows; nothing is called while it is held
	last    metrics.Snapshot
	running chan struct{} // closed when the sample that is being taken is last; nil: none is
}

// get gives what is counted now, or, when that takes too long, the last that
// is known, marked as partial.
func (s *sampler) get() metrics.Snapshot {
	patience := time.NewTimer(samplePatience)
	defer patience.Stop()
	select {
	case <-s.begin():
		return s.latest(false)
	case <-patience.C:
		return s.latest(true)
	}
}

func (s *sampler) latest(partial bool) metrics.Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	snap := s.last
	snap.Partial = partial
	return snap
}

// begin takes a sample, or joins the one that is being taken.
func (s *sampler) begin() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running != nil {
		return s.running
	}
	done := make(chan struct{})
	s.running = done
	go func() {
		snap := s.collect()
		s.mu.Lock()
		s.last, s.running = snap, nil
		s.mu.Unlock()
		close(done)
	}()
	return done
}

// collect visits the reactors; it waits for them.
func (e *engine) collect() metrics.Snapshot {
	s := metrics.Snapshot{Draining: e.draining.Load()}
	for _, d := range e.disks {
		p := d.Plugin()
		v := metrics.Volume{Name: d.Config.Name, Plugin: p.Name, Generation: p.Generation}
		v.State, v.Reason = d.Volume.State()
		if info, ok := d.Volume.Info(); ok {
			v.Size = info.Size
		}
		stats := d.Volume.Stats()
		v.Stats = &stats
		if sess := d.Session(); sess != nil {
			c := sess.Counters()
			v.Session, v.Connections = &c, sess.Path().Connections
		}
		s.Volumes = append(s.Volumes, v)
	}
	e.collectPlugins(&s)
	e.collectExports(&s)
	for i, r := range e.reactors {
		turns, sleeps := r.Load()
		s.Reactors = append(s.Reactors, metrics.Reactor{Index: i, Turns: turns, Sleeps: sleeps})
	}
	return s
}

// collectExports adds what the frontend has counted.
func (e *engine) collectExports(s *metrics.Snapshot) {
	seen := e.servers.stats()
	s.Listeners = seen.listeners
	for _, x := range e.exports {
		m := metrics.Export{Name: x.cfg.Name, Volume: x.cfg.Volume, Frontend: string(x.cfg.Frontend),
			Listen: x.address().String(), Up: x.usable()}
		if c, ok := x.door.count(&seen); ok {
			m.Connections, m.Stats = c.connections, c.requests
		}
		if d, ok := x.device(); ok {
			m.Device = &metrics.Device{Path: d.Path, State: d.State, Recovered: d.Recovered, Again: d.Again, Reconnects: d.Reconnects}
		}
		s.Exports = append(s.Exports, m)
	}
}

// capNames are the capabilities as status shows them.
var capNames = []struct {
	cap  block.Caps
	name string
}{
	{block.CapFlush, "flush"}, {block.CapFUA, "fua"}, {block.CapDiscard, "discard"},
	{block.CapWriteZeroes, "write_zeroes"}, {block.CapFastZero, "fast_zero"},
	{block.CapBlockStatus, "block_status"}, {block.CapCache, "cache"},
	{block.CapReadOnly, "read_only"}, {block.CapRotational, "rotational"},
	{block.CapFlushCoversAll, "flush_covers_all"},
}

func capList(c block.Caps) []string {
	list := []string{}
	for _, n := range capNames {
		if c&n.cap != 0 {
			list = append(list, n.name)
		}
	}
	return list
}
