package ublk

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"blockengine/sdk/block"
)

func TestRecords(t *testing.T) {
	s := recordsIn(filepath.Join(t.TempDir(), "state"))
	if r, err := s.load("a"); r != nil || err != nil {
		t.Fatalf("%v, %v", r, err)
	}
	names := []string{"a", "A/b", "../../etc", ".hidden", "ä b", "%2f", "x.json", strings.Repeat("n", MaxName)}
	for i, name := range names {
		if err := s.save(&record{Version: recordVersion, Token: uint64(i) + 1, ID: i, Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	for i, name := range names {
		if r, err := s.load(name); err != nil || r.Token != uint64(i)+1 || r.Name != name {
			t.Errorf("%q: %+v, %v", name, r, err)
		}
	}
	if all, err := s.all(); err != nil || len(all) != len(names) {
		t.Errorf("%d of %d, %v", len(all), len(names), err)
	}
	if n, _ := filepath.Glob(filepath.Join(s.dir, "*")); len(n) != len(names) {
		t.Errorf("files %q", n)
	}
	if err := s.forget("a"); err != nil {
		t.Fatal(err)
	}
	if r, _ := s.load("a"); r != nil || s.forget("a") != nil || s.forgive("a") != nil {
		t.Error("it is not forgotten, or cannot be twice")
	}
}

// Whatever is wrong with a file, it is named, and the others are found.
func TestDamagedRecords(t *testing.T) {
	s := recordsIn(t.TempDir())
	if err := s.save(&record{Version: recordVersion, Token: 5, Name: "good"}); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"empty": "", "cut": `{"version": 1, "tok`, "later": `{"version": 2, "token": "9"}`, "no token": `{"version": 1}`,
		"long": `{"version": 1, "token": "1", "name": "` + strings.Repeat("x", maxRecord) + `"}`,
	} {
		path := s.path(name, recordEnd)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if r, err := s.load(name); r != nil || err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
		all, err := s.all()
		if len(all) != 1 || all[0].Token != 5 || err == nil {
			t.Errorf("%s: %d, %v", name, len(all), err)
		}
		os.Remove(path)
	}
}

func TestSameDisk(t *testing.T) {
	r := record{Volume: "v", Identity: "disk 1", Size: 1 << 20, BlockSize: 512}
	is := block.Info{Size: 1 << 20, BlockSize: 512, Identity: "disk 1"}
	for name, c := range map[string]struct {
		change func(*record, *block.Info)
		volume string
		want   string
	}{
		"the same":            {func(*record, *block.Info) {}, "v", ""},
		"by another name":     {func(*record, *block.Info) {}, "w", ""},
		"grown":               {func(_ *record, i *block.Info) { i.Size++ }, "v", ""},
		"shrunk":              {func(_ *record, i *block.Info) { i.Size-- }, "v", "shrunk"},
		"another":             {func(_ *record, i *block.Info) { i.Identity = "disk 2" }, "v", "another disk"},
		"without identity":    {func(_ *record, i *block.Info) { i.Identity = "" }, "v", "another disk"},
		"never had one":       {func(r *record, i *block.Info) { r.Identity, i.Identity = "", "" }, "v", ""},
		"nor has another":     {func(r *record, i *block.Info) { r.Identity, i.Identity = "", "" }, "w", "neither"},
		"other blocks":        {func(_ *record, i *block.Info) { i.BlockSize = 4096 }, "v", "block size"},
		"read only":           {func(_ *record, i *block.Info) { i.Caps = block.CapReadOnly }, "v", "read only"},
		"read only as it was": {func(r *record, i *block.Info) { r.ReadOnly, i.Caps = true, block.CapReadOnly }, "v", ""},
	} {
		r, i := r, is
		c.change(&r, &i)
		err := r.same(c.volume, &i, r.Size)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
