package session

import (
	"blockengine/engine/inflight"
	"blockengine/engine/volume"
)

// list holds IOs in flight through Lower.Place. An IO is in at most one.
type list struct{ inflight.List[volume.IO] }

func (l *list) pushBack(io *volume.IO) { l.PushBack(&io.Lower.Place) }
func (l *list) insert(io *volume.IO)   { l.Insert(&io.Lower.Place) }
func (l *list) remove(io *volume.IO)   { l.Remove(&io.Lower.Place) }
func (l *list) popFront() *volume.IO   { return l.PopFront() }
func (l *list) first() *volume.IO      { return ioOf(l.Front()) }

// behind gives the IO behind io in its list, or nil.
func behind(io *volume.IO) *volume.IO { return ioOf(io.Lower.Place.Next()) }

func ioOf(e *inflight.Entry[volume.IO]) *volume.IO {
	if e == nil {
		return nil
	}
	return e.Owner()
}
