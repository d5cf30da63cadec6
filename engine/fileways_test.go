package main

import (
	"errors"
	"strings"
	"testing"

	"blockengine/engine/config"
)

func TestFileWays(t *testing.T) {
	volume := func(name, options string) string {
		return "[[volume]]\nname = \"" + name + "\"\nplugin = \"file\"\n[volume.options]\npath = \"" + name + "\"\n" + options
	}
	cfg, err := config.Parse("engine.toml", []byte(volume("a", "io = \"threads\"\n")+volume("b", "io = \"fast\"\n")+volume("c", "")))
	if err != nil {
		t.Fatal(err)
	}
	problems := checkFileWays(cfg)
	want := `engine.toml:12: volume "b": io "fast" is no way of doing I/O: give "auto", "threads" or "io_uring"`
	if len(problems) != 1 || problems[0].Error() != want {
		t.Errorf("got  %v\nwant %s", problems, want)
	}
	no := errors.New("the kernel was built without it")
	if got := fileWayNotes(cfg, func() error { return no }); len(got) != 1 || !strings.Contains(got[0], no.Error()) {
		t.Errorf("without rings: %q", got)
	}
	if got := fileWayNotes(cfg, func() error { return nil }); len(got) != 1 || !strings.Contains(got[0], "can be used") {
		t.Errorf("with rings: %q", got)
	}
	cfg, err = config.Parse("engine.toml", []byte("[[volume]]\nname = \"m\"\nplugin = \"memory\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got := fileWayNotes(cfg, func() error { return no }); got != nil || checkFileWays(cfg) != nil {
		t.Errorf("without files: %q", got)
	}
}
