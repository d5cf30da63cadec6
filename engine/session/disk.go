package session

import (
	"errors"
	"fmt"

	"blockengine/sdk/block"
)

// learn takes in what an online connection says of the disk and refuses another
// disk than the one seen before (rule 4). conns is how many connections the
// server allows.
func (s *Session) learn(info block.Info, conns uint32) error {
	s.mu.Lock()
	old := s.info
	if old != nil {
		if err := SameDisk(old, &info); err != nil {
			s.mu.Unlock()
			return err
		}
	}
	changed := old == nil || *old != info
	s.info, s.maxConns = &info, conns
	s.mu.Unlock()
	if old == nil {
		err := s.attach(unvouched(info), conns)
		if err != nil { // nobody has seen a disk yet
			s.mu.Lock()
			s.info = nil
			s.mu.Unlock()
		}
		return err
	}
	if changed {
		if info.Size > old.Size {
			s.log.Info("the disk has grown", "from", old.Size, "to", info.Size)
		}
		s.tellVolume(info)
	}
	return nil
}

// tellVolume makes what the session has learnt the volume's. Another reactor may
// have learnt more meanwhile: that must not be overwritten for good.
func (s *Session) tellVolume(info block.Info) {
	for {
		s.opt.Volume.SetInfo(unvouched(info))
		now, _ := s.seen()
		if *now == info {
			return
		}
		info = *now
	}
}

// unvouched is info as the volume is told it. Of several connections each is
// flushed for itself, whatever the server promises: one that has come back after
// a crash of the server cannot vouch for what was acknowledged on another one
// before (rule 3).
func unvouched(info block.Info) block.Info {
	info.Caps &^= block.CapFlushCoversAll
	return info
}

// attach brings the volume online with its first geometry.
func (s *Session) attach(info block.Info, conns uint32) error {
	want := len(s.opt.Reactors)
	if n := s.opt.Connections; n > 0 {
		want = min(want, n)
	}
	if int(conns) < len(s.opt.Reactors) || want < len(s.opt.Reactors) {
		s.home.Store(s.opt.Home)
	}
	return s.opt.Volume.Attach(s, info)
}

// seen is the disk as last seen, nil if it never was, and how many connections
// its server allows.
func (s *Session) seen() (info *block.Info, conns uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.info, s.maxConns
}

// SameDisk compares what must not change behind a volume. A disk may grow.
func SameDisk(old, now *block.Info) error {
	switch {
	case now.Identity != old.Identity:
		return fmt.Errorf("the server now shows disk %q, it was %q: another disk is not written to", now.Identity, old.Identity)
	case now.Size < old.Size:
		return fmt.Errorf("the disk has shrunk from %d to %d bytes", old.Size, now.Size)
	case now.BlockSize != old.BlockSize:
		return fmt.Errorf("the disk's block size was %d and is now %d", old.BlockSize, now.BlockSize)
	case now.Has(block.CapReadOnly) && !old.Has(block.CapReadOnly):
		return errors.New("the disk has become read only")
	}
	return nil
}

// promised are the capabilities that frontends may have told their guests of
// and that the volume cannot emulate.
var promised = []struct {
	cap  block.Caps
	name string
}{{block.CapFlush, "flush"}, {block.CapDiscard, "discard"}, {block.CapFastZero, "fast zeroing"}}

// exchangeable compares a disk as two versions of a plugin show it at the same
// time: what one of them shows otherwise, it shows wrong.
func exchangeable(old, now *block.Info) error {
	if err := SameDisk(old, now); err != nil {
		return &otherDisk{err}
	}
	if now.Size != old.Size {
		return &otherDisk{fmt.Errorf("the disk has %d bytes, and the new version shows %d", old.Size, now.Size)}
	}
	for _, p := range promised {
		if old.Has(p.cap) && !now.Has(p.cap) {
			return &otherDisk{fmt.Errorf("guests have been promised %s, which the new version cannot do", p.name)}
		}
	}
	return nil
}

// compare holds what another version shows against the disk as last seen; there
// is nothing to hold it against before.
func (s *Session) compare(now *block.Info) error {
	if old, _ := s.seen(); old != nil {
		return exchangeable(old, now)
	}
	return nil
}

// otherDisk is why a version is refused for good: what it shows is not what the
// volume's guests have.
type otherDisk struct{ error }

// Unwrap gives what differs.
func (e *otherDisk) Unwrap() error { return e.error }
