package session

import (
	"blockengine/sdk/block"
)

// dirty reports whether the connection has acknowledged writes that no flush
// covers. Those of the receive that is under way are not in ackTo yet: no flush
// covers them, because none can have begun after they were acknowledged.
func (cn *conn) dirty() bool { return cn.acked || cn.ackTo != 0 && !cn.covered() }

// covered reports whether a flush that was acknowledged covers what was
// acknowledged here from ackFrom to ackTo. One on another reactor's connection
// does only if that connection was there before: a newer one may lead to a
// server that has restarted in between and lost what it had not written.
func (cn *conn) covered() bool {
	if cn.flushAt > cn.ackTo {
		return true
	}
	for i := range cn.s().channels {
		o := cn.s().channels[i].Load()
		if o == nil || o == cn.ch || !o.covers.Load() {
			continue
		}
		if o.flushed.Load() > cn.ackTo && o.since.Load() <= cn.ackFrom {
			return true
		}
	}
	return false
}

// acknowledged notes that writes have been acknowledged that are not durable
// by themselves. The time is taken after the fact, and a flush's before it is
// sent, so that a flush never seems to cover what it does not.
func (cn *conn) acknowledged(now int64) {
	if !cn.dirty() {
		cn.ackFrom = cn.ch.r.Now() // before the fact: see covered
	}
	cn.ackTo = now
}

// flushed notes that a flush has been acknowledged that began at t, and tells
// the other reactors' connections if it covers them, too. since is stored
// before the time: who sees the new time sees the connection that it belongs
// to.
func (cn *conn) flushed(t int64) {
	cn.flushAt = max(cn.flushAt, t)
	c := cn.ch
	if c.conn != cn {
		return
	}
	c.covers.Store(cn.info.Has(block.CapFlushCoversAll))
	c.since.Store(cn.onlineAt)
	c.flushed.Store(max(c.flushed.Load(), t))
}
