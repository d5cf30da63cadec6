package kit

import (
	"context"
	"fmt"

	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/reactor"
)

// Module loads a protocol plugin's file, for whichever runtime it is. Its
// instances answer in the same call.
func Module(ctx context.Context, path string, o Loading) (guest.Module, error) {
	s, err := load(ctx, path, o)
	if err != nil {
		return nil, err
	}
	if s.module == nil {
		s.close()
		return nil, &Misuse{fmt.Errorf("%s is a store plugin: there is no seam at which it is handed events", path)}
	}
	loop, err := startLoop()
	if err != nil {
		s.close()
		return nil, err
	}
	return &module{s.module, s, loop}, nil
}

type module struct {
	guest.Module
	subject *subject
	loop    *reactor.Reactor // that instances in other processes answer on
}

// NewInstance makes an instance that answers in the same call.
func (m *module) NewInstance(ctx context.Context) (guest.Instance, error) {
	return newInstance(ctx, m.Module, m.loop)
}

// Close ends it, with the process if there is one.
func (m *module) Close() error {
	m.subject.close()
	m.loop.Stop()
	return nil
}

func startLoop() (*reactor.Reactor, error) {
	loop, err := reactor.New(reactor.Options{})
	if err != nil {
		return nil, err
	}
	loop.Start()
	return loop, nil
}
