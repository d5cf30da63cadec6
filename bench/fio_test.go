package main

import (
	"strings"
	"testing"
)

// fioText has the shape of what fio 3.33 writes, its nbd engine's line included.
const fioText = `fio: connected to NBD server
{
  "fio version" : "fio-3.33",
  "jobs" : [
    {
      "jobname" : "bench",
      "error" : 0,
      "read" : {
        "io_bytes" : 4096, "iops" : 101234.5, "total_ios" : 303704,
        "clat_ns" : { "mean" : 1.5, "percentile" : { "50.000000" : 610304, "99.000000" : 1204224 } }
      },
      "write" : { "iops" : 0.0, "total_ios" : 0, "clat_ns" : { "mean" : 0.0 } }
    }
  ]
}
`

func TestParseFio(t *testing.T) {
	got, err := parseFio([]byte(fioText))
	if want := (outcome{303704, 101234.5, 610.304, 1204.224}); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	writes := strings.NewReplacer(`"read"`, `"write"`, `"write"`, `"read"`).Replace(fioText)
	if w, err := parseFio([]byte(writes)); err != nil || w != got {
		t.Errorf("as a writer: got %+v, %v, want %+v", w, err, got)
	}
}

func TestParseFioRefuses(t *testing.T) {
	for _, x := range []struct{ name, text, want string }{
		{"nothing", "", "no JSON"},
		{"only its own line", "fio: connected\n", "no JSON"},
		{"cut short", fioText[:len(fioText)/2], "JSON"},
		{"no job", `{"jobs":[]}`, "0 jobs"},
		{"an errno", strings.Replace(fioText, `"error" : 0`, `"error" : 5`, 1), "input/output error"},
		{"no requests", strings.Replace(fioText, "303704", "0", 1), "no finished requests"},
		{"no percentile", strings.Replace(fioText, "99.000000", "99.900000", 1), "no finished requests"},
	} {
		_, err := parseFio([]byte(x.text))
		if err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: error %v, want one with %q", x.name, err, x.want)
		}
	}
}
