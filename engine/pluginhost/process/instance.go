package process

import (
	"errors"

	"blockengine/engine/reactor"
)

// instance is the engine's end of a machine region: a guest.Apart.
type instance struct {
	region *region
	c      control
}

var errNoInstance = errors.New("instances are not there yet")

// newInstance makes the engine's end of r, which is the instance's from now on.
func newInstance(r *region, c control) *instance { return &instance{region: r, c: c} }

// died tells that the process is gone. Safe from any goroutine.
func (i *instance) died(err error) {}

func (i *instance) Input() []byte { return i.region.In }

func (i *instance) Call(n int, budget int64) (actions []byte, more bool, err error) {
	return nil, false, errNoInstance
}

func (i *instance) Attach(r *reactor.Reactor, answered func()) error { return errNoInstance }
func (i *instance) Begin(n int, budget int64)                        {}
func (i *instance) Answer() (actions []byte, more bool, err error)   { return nil, false, errNoInstance }

func (i *instance) Close() {}
