package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// idleExports is how many exports an engine has whose memory is looked at.
const idleExports = 1000

// idle finds out what an engine costs that has nothing to do: a line for each
// figure, or for why there is none.
func (r *run) idle(ctx context.Context) []string {
	var lines []string
	for _, x := range []struct {
		what    string
		volumes []volumeConfig
		backed  bool
		look    func(context.Context, *instance) (string, error)
	}{
		{"CPU of an idle engine with volumes on memory, null and nbd in wasm, the latter connected",
			[]volumeConfig{{name: "disk", plugin: "nbdwasm"}, {name: "m", plugin: "memory"}, {name: "n", plugin: "null"}}, true, r.idleCPU},
		{fmt.Sprintf("resident memory of an engine with %d idle exports, half on memory, half on null, 1 GiB each", idleExports),
			manyVolumes(), false, idleMemory},
	} {
		text, err := r.look(ctx, x.volumes, x.backed, x.look)
		if err != nil {
			text = "failed: " + err.Error()
		}
		lines = append(lines, x.what+": "+text)
	}
	return lines
}

func manyVolumes() []volumeConfig {
	var volumes []volumeConfig
	for i := range idleExports / 2 {
		volumes = append(volumes, volumeConfig{name: fmt.Sprintf("m%d", i), plugin: "memory"}, volumeConfig{name: fmt.Sprintf("n%d", i), plugin: "null"})
	}
	return volumes
}

// look starts an engine of its own, gives it time to settle, and looks.
func (r *run) look(ctx context.Context, volumes []volumeConfig, backed bool,
	look func(context.Context, *instance) (string, error)) (string, error) {
	at, err := r.place(ctx, backed, false)
	if err != nil {
		return "", err
	}
	in, err := startEngine(ctx, at, engineConfig{volumes: volumes})
	if err != nil {
		return "", err
	}
	defer in.stop()
	if err := sleep(ctx, 2*time.Second); err != nil {
		return "", err
	}
	return look(ctx, in)
}

func (r *run) idleCPU(ctx context.Context, in *instance) (string, error) {
	before, err := cpuTime(in.pid())
	if err == nil {
		err = sleep(ctx, r.settings.idle)
	}
	after, err2 := cpuTime(in.pid())
	if err := errors.Join(err, err2); err != nil {
		return "", err
	}
	return fmt.Sprintf("%v in %v (the kernel counts in steps of %v)", after-before, r.settings.idle, clockTick), nil
}

func idleMemory(_ context.Context, in *instance) (string, error) {
	rss, threads, err := memory(in.pid())
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%.1f MiB, %d threads", float64(rss)/(1<<20), threads), nil
}

// sleep waits, or gives the reason to end.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
