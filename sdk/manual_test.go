package sdk

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// snippets gives the manual's blocks of a language.
func snippets(t *testing.T, lang string) []string {
	t.Helper()
	text, err := os.ReadFile("PLUGIN.md")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, m := range regexp.MustCompile("(?s)\n```"+lang+"\n(.*?)\n```\n").FindAllStringSubmatch(string(text), -1) {
		found = append(found, m[1]+"\n")
	}
	if len(found) == 0 {
		t.Fatalf("the manual has no snippet in %s", lang)
	}
	return found
}

// overlay says of files that are not there what is in them.
type overlay struct{ Replace map[string]string }

// The manual's Go is compiled, each block as a package of its own in this module.
// What it imports of example.com are other blocks.
func TestManualGo(t *testing.T) {
	here, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	dir, layer := t.TempDir(), overlay{map[string]string{}}
	var host, guests []string
	for i, text := range snippets(t, "go") {
		name := strings.Fields(text)[1]
		pkg := name
		if name == "main" {
			pkg = fmt.Sprintf("main%d", i)
		}
		file := filepath.Join(dir, pkg+".go")
		text = strings.ReplaceAll(text, `"example.com/`, `"blockengine/sdk/snippet/`)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		layer.Replace[filepath.Join(here, "snippet", pkg, "a.go")] = file
		if strings.Contains(text, `"blockengine/sdk/wasm"`) {
			guests = append(guests, "./snippet/"+pkg)
		} else {
			host = append(host, "./snippet/"+pkg)
		}
	}
	index := filepath.Join(dir, "overlay.json")
	b, err := json.Marshal(layer)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(index, b, 0o600); err != nil {
		t.Fatal(err)
	}
	build(t, index, nil, host)
	build(t, index, []string{"GOOS=wasip1", "GOARCH=wasm"}, guests)
}

func build(t *testing.T, index string, env, packages []string) {
	t.Helper()
	if len(packages) == 0 {
		t.Fatal("there is no snippet of this kind")
	}
	for _, p := range packages {
		args := []string{"build", "-overlay", index, "-o", filepath.Join(t.TempDir(), "a")}
		if env != nil {
			args = append(args, "-buildmode=c-shared")
		}
		c := exec.Command("go", append(args, p)...)
		c.Env = append(os.Environ(), env...)
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", p, err, out)
		}
	}
}

// The manual's C is compiled and linked as the manual says.
func TestManualC(t *testing.T) {
	for _, program := range []string{"clang", "wasm-ld"} {
		if _, err := exec.LookPath(program); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is missing: apt-get install clang lld", program)
			}
			t.Skipf("%s is missing: apt-get install clang lld", program)
		}
	}
	for i, text := range snippets(t, "c") {
		src := filepath.Join(t.TempDir(), "myprotocol.c")
		if err := os.WriteFile(src, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c := exec.Command("clang", "--target=wasm32", "-O2", "-ffreestanding", "-nostdlib", "-Wall", "-Wextra", "-Werror",
			"-Wl,--no-entry", "-Wl,--strip-all", "-Ic", "-o", src+".wasm", src)
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("block %d: %v\n%s", i, err, out)
		}
	}
}

func TestManualJSON(t *testing.T) {
	for _, text := range snippets(t, "json") {
		if !json.Valid([]byte(text)) {
			t.Errorf("this is no JSON:\n%s", text)
		}
	}
}
