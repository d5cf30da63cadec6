package guest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// dependencies reads modules.dep: for each file of a module, those that it needs.
func dependencies(text string) map[string][]string {
	deps := map[string][]string{}
	for line := range strings.Lines(text) {
		if file, needs, ok := strings.Cut(line, ":"); ok {
			deps[file] = strings.Fields(needs)
		}
	}
	return deps
}

// moduleName of a file such as kernel/fs/xfs/xfs.ko.xz. Modules are known with
// either dash or underscore.
func moduleName(file string) string {
	name, _, _ := strings.Cut(filepath.Base(file), ".")
	return strings.ReplaceAll(name, "-", "_")
}

// moduleFiles gives the files of the named modules and all that they need,
// relative to the directory of modules.dep.
func moduleFiles(deps map[string][]string, names []string) ([]string, error) {
	byName := map[string]string{}
	for file := range deps {
		byName[moduleName(file)] = file
	}
	var files []string
	seen := map[string]bool{}
	add := func(file string) {
		if !seen[file] {
			seen[file] = true
			files = append(files, file)
		}
	}
	for _, name := range names {
		file, ok := byName[moduleName(name)]
		if !ok {
			return nil, fmt.Errorf("the kernel has no module %s", name)
		}
		add(file)
		for _, need := range deps[file] { // depmod lists the indirect ones too
			add(need)
		}
	}
	return files, nil
}

// stageModules makes dir/lib/modules/RELEASE with the wanted modules, not
// compressed (busybox loads them as they are), and depmod's lists for them.
func (b *builder) stageModules(ctx context.Context, k kernel, dir string) error {
	text, err := os.ReadFile(filepath.Join(k.modules(), "modules.dep"))
	if err != nil {
		return err
	}
	files, err := moduleFiles(dependencies(string(text)), Modules)
	if err != nil {
		return err
	}
	to := filepath.Join(dir, "lib/modules", k.release)
	for _, file := range files {
		if err := b.stageModule(ctx, filepath.Join(k.modules(), file), filepath.Join(to, file)); err != nil {
			return err
		}
	}
	for _, list := range []string{"modules.order", "modules.builtin", "modules.builtin.modinfo"} {
		data, err := os.ReadFile(filepath.Join(k.modules(), list))
		if err == nil {
			err = os.WriteFile(filepath.Join(to, list), data, 0o644)
		}
		if err != nil {
			return err
		}
	}
	_, err = b.run(ctx, "depmod", "-b", dir, k.release)
	return err
}

// stageModule copies a module, decompressing it.
func (b *builder) stageModule(ctx context.Context, from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	var data []byte
	var err error
	if strings.HasSuffix(from, ".xz") {
		to = strings.TrimSuffix(to, ".xz")
		var text string
		text, err = b.run(ctx, "xz", "-dc", from)
		data = []byte(text)
	} else {
		data, err = os.ReadFile(from)
	}
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o644)
}
