;; Builds NBD request headers (28 bytes, big endian) the way a C compiler does:
;; `one` straight-line, `many` n of them through a function that is not inlined.
(module
  (memory (export "memory") 4)
  (func $swap (param $v i64) (result i64)
    (local.set $v (i64.or
      (i64.shl (i64.and (local.get $v) (i64.const 0x00ff00ff00ff00ff)) (i64.const 8))
      (i64.and (i64.shr_u (local.get $v) (i64.const 8)) (i64.const 0x00ff00ff00ff00ff))))
    (local.set $v (i64.or
      (i64.shl (i64.and (local.get $v) (i64.const 0x0000ffff0000ffff)) (i64.const 16))
      (i64.and (i64.shr_u (local.get $v) (i64.const 16)) (i64.const 0x0000ffff0000ffff))))
    (i64.rotl (local.get $v) (i64.const 32)))
  (func $one (export "one") (param $p i32) (param $op i32) (param $cookie i64) (param $from i64) (param $len i32) (result i32)
    (i32.store (local.get $p) (i32.const 0x13956025))
    (i32.store16 offset=4 (local.get $p) (i32.const 0))
    (i32.store8 offset=6 (local.get $p) (i32.shr_u (local.get $op) (i32.const 8)))
    (i32.store8 offset=7 (local.get $p) (local.get $op))
    (i64.store offset=8 (local.get $p) (call $swap (local.get $cookie)))
    (i64.store offset=16 (local.get $p) (call $swap (local.get $from)))
    (i32.store offset=24 (local.get $p)
      (i32.wrap_i64 (i64.shr_u (call $swap (i64.extend_i32_u (local.get $len))) (i64.const 32))))
    (i32.add (local.get $p) (i32.const 28)))
  (func (export "many") (param $p i32) (param $n i32) (result i32)
    (local $i i32)
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $i) (local.get $n)))
        (local.set $p (call $one (local.get $p) (i32.const 1)
          (i64.extend_i32_u (local.get $i))
          (i64.shl (i64.extend_i32_u (local.get $i)) (i64.const 12))
          (i32.const 4096)))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br $next)))
    (local.get $p)))
