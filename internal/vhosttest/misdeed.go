package vhosttest

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Misdeed is something that a front-end or a guest must not do, or need not. A
// back-end may end the connection, refuse, or answer; it may not die, hang, or
// touch what is not the guest's.
type Misdeed struct {
	Name string
	// Fatal: nothing sensible can be done but to end the connection or the queue.
	Fatal bool
	// Legal: odd, but right; the connection must stay.
	Legal bool

	fresh bool // on a connection on which nothing was said yet; else the disk runs
	do    func(f *Frontend) error
}

// Outcome is what came of a misdeed.
type Outcome struct {
	Closed   bool  // the back-end has ended the connection
	Left     bool  // the misdeed was to end it
	Signaled bool  // an error of a queue was signalled, SET_VRING_ERR
	Refused  error // what the misdeed itself noticed, e.g. a *Refused
}

// Commit makes a machine, has it do the misdeed, and looks what came of it. The
// error says that nothing did: the back-end neither answers nor ends the
// connection, or it cannot be reached at all.
func (m *Misdeed) Commit(ctx context.Context, o Options) (Outcome, error) {
	p := QEMU()
	if o.Personality != nil {
		copied := *o.Personality
		p = &copied
	}
	p.FirmwareFirst = false
	o.Personality = p
	f, err := Make(o)
	if err != nil {
		return Outcome{}, err
	}
	defer f.Close()
	if m.fresh {
		err = f.reach(ctx)
	} else if err = f.Connect(ctx); err == nil {
		err = f.Start()
	}
	if err != nil {
		return Outcome{}, fmt.Errorf("before the misdeed: %w", err)
	}
	out := Outcome{Refused: m.do(f)}
	if errors.Is(out.Refused, errLeft) {
		return Outcome{Left: true}, nil
	}
	out.Closed, err = f.closed()
	out.Signaled = f.Failed()
	return out, err
}

// errLeft says that the misdeed was to hang up.
var errLeft = errors.New("vhosttest: left")

// closed asks a question that every back-end answers, and says whether it has
// ended the connection instead. Replies that nobody has taken come first.
func (f *Frontend) closed() (bool, error) {
	c := f.conn.Load()
	if err := c.Send(Message{Request: GetFeatures, Flags: FlagVersion}); err != nil {
		// It may have closed; then that shows at once.
		return f.isClosed(err)
	}
	for {
		m, err := c.Receive()
		if err != nil {
			return f.isClosed(err)
		}
		closeAll(m.FDs)
		if m.Request == GetFeatures && len(m.Payload) == 8 {
			return false, nil
		}
	}
}

// isClosed waits for the reader to notice what sending or waiting ran into.
func (f *Frontend) isClosed(err error) (bool, error) {
	select {
	case <-f.Lost():
		return true, nil
	case <-time.After(f.o.Timeout / 4):
		return false, err
	}
}

// send gives a misdeed of messages.
func send(messages ...Message) func(*Frontend) error {
	return func(f *Frontend) error {
		for _, m := range messages {
			if m.Flags == 0 {
				m.Flags = FlagVersion
			}
			if err := f.Conn().Send(m); err != nil {
				return err
			}
		}
		return nil
	}
}
