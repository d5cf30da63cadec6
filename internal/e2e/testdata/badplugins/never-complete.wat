;; Takes requests and is never heard of again, not even when they are asked back.
(func $request (param $p i32))
