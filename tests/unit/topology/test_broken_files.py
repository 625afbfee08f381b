"""Mistakes in topology files are reported with line, field and remedy."""

import os
from pathlib import Path
from typing import NamedTuple

import pytest
from topology_file import with_sections

from flaremesh.topology.load import load
from flaremesh.topology.mistakes import LineMistake, TopologyError


class Broken(NamedTuple):
    """A snippet of a topology file, and the one mistake that it must lead to."""

    snippet: str
    line: int
    field: str
    words: str


BROKEN = {
    # fields
    "unknown section": Broken("colour: red", 1, "colour", "no such field"),
    "misspelt field": Broken(
        "server: {hots: localhost, org: consortium}",
        1,
        "server.hots",
        "did you mean host?",
    ),
    "missing field": Broken(
        """
        server:
          host: localhost
        """,
        1,
        "server.org",
        "missing; add org: organisation",
    ),
    "field given twice": Broken(
        """
        name: ring3
        name: ring4
        """,
        2,
        "name",
        "already in line 1",
    ),
    "nothing to reach": Broken(
        """
        run:
          algorithm: consensus
          iterations: 10
          problem: {path: flaremesh.problems.consensus.Consensus}
          until: {}
        """,
        5,
        "run.until",
        "it names no metric; write a metric and its value, e.g. {accuracy: 0.95}",
    ),
    "no value to reach": Broken(
        """
        run:
          algorithm: consensus
          iterations: 10
          problem: {path: flaremesh.problems.consensus.Consensus}
          until: {accuracy: high}
        """,
        5,
        "run.until.accuracy",
        "'high' is no number; expected: the value that a metric is to reach at all sites",
    ),
    "half a plateau": Broken(
        """
        run:
          algorithm: consensus
          iterations: 10
          problem: {path: flaremesh.problems.consensus.Consensus}
          until: {plateau: {metric: loss}}
        """,
        5,
        "run.until.plateau.iterations",
        "missing; add iterations: for so many iterations",
    ),
    "another version": Broken(
        "apiVersion: v2",
        1,
        "apiVersion",
        "'v2' is unknown; write one of flaremesh/v1",
    ),
    "name of the mesh with capitals": Broken(
        "name: Ring_3",
        1,
        "name",
        "'Ring_3' is not allowed; expected: name of",
    ),
    "text for a number": Broken(
        "server: {host: localhost, org: c, port: http}",
        1,
        "server.port",
        "'http' is no whole number",
    ),
    "port out of range": Broken(
        "server: {host: localhost, org: c, port: 80020}",
        1,
        "server.port",
        "at most 65535",
    ),
    "nobody to submit runs": Broken("admins: []", 1, "admins", "0 given, at least 1 needed"),
    "no e-mail address": Broken(
        """
        admins:
        - {email: admin, org: c}
        """,
        2,
        "admins[0].email",
        "expected: e-mail address",
    ),
    "unknown role": Broken(
        """
        admins:
        - {email: a@b.de, org: c, role: leader}
        """,
        2,
        "admins[0].role",
        "did you mean lead?",
    ),
    "admin listed twice": Broken(
        """
        admins:
        - {email: a@b.de, org: c}
        - {email: a@b.de, org: d}
        """,
        3,
        "admins[1].email",
        "is already admins[0]",
    ),
    # sites
    "one site": Broken("sites: [{name: bonn, org: ukb}]", 1, "sites", "1 given, at least 2 needed"),
    "sites that are no list": Broken("sites: bonn", 1, "sites", "'bonn' is no list"),
    "site that is a word": Broken(
        """
        sites:
        - bonn
        - {name: aachen, org: uka}
        """,
        2,
        "sites[0]",
        "no mapping of fields",
    ),
    "site's name with an underscore": Broken(
        """
        sites:
        - {name: bonn, org: ukb}
        - name: aachen_1
          org: uka
        """,
        3,
        "sites[1].name",
        "letters, digits and hyphens",
    ),
    "site's name that YAML takes for false": Broken(
        """
        sites:
        - {name: no, org: ukb}
        - {name: aachen, org: uka}
        - {name: bonn, org: ukb}
        """,
        2,
        "sites[0].name",
        "stands in quotes",
    ),
    "site listed twice": Broken(
        """
        sites:
        - {name: bonn, org: ukb}
        - {name: aachen, org: uka}
        - {name: bonn, org: ukb}
        """,
        4,
        "sites[2].name",
        "bonn is already sites[0]",
    ),
    "site called like the server": Broken(
        """
        sites:
        - {name: server, org: ukb}
        - {name: aachen, org: uka}
        """,
        2,
        "sites[0].name",
        "the server's own name",
    ),
    "negative number of GPUs": Broken(
        """
        sites:
        - {name: bonn, org: ukb, gpus: -1}
        - {name: aachen, org: uka}
        """,
        2,
        "sites[0].gpus",
        "of at least 0",
    ),
    "metric with its prefix": Broken(
        """
        sites:
        - name: bonn
          org: ukb
          metrics: {share: [ready, flaremesh_train_loss]}
        - {name: aachen, org: uka}
        """,
        4,
        "sites[0].metrics.share[1]",
        "no metric flaremesh_train_loss that a site could share; did you mean train_loss?",
    ),
    "metric that no site has": Broken(
        "metrics: {share: [registered_sites]}",
        1,
        "metrics.share[0]",
        "no metric registered_sites that a site could share",
    ),
    "metrics that are no list": Broken("metrics: {share: some}", 1, "metrics.share", "'some' is no list"),
    "ports in the wrong order": Broken(
        """
        sites:
        - name: bonn
          org: ukb
          link:
            host: h
            ports: 8105-8102
        - {name: aachen, org: uka}
        """,
        6,
        "sites[0].link.ports",
        "write the lower port first",
    ),
    "ports that are no range": Broken(
        """
        sites:
        - {name: bonn, org: ukb, link: {host: h, ports: any}}
        - {name: aachen, org: uka}
        """,
        2,
        "sites[0].link.ports",
        "neither a port nor a range",
    ),
    # graph
    "graph that is a word": Broken("graph: rings", 1, "graph", "write graph: {kind: ring}"),
    "graph that says nothing": Broken(
        "graph: {directed: true}",
        1,
        "graph",
        "neither kind nor edges nor file",
    ),
    "unknown kind": Broken(
        """
        graph:
          kind: circle-ring
        """,
        1,
        "graph",
        "the kind 'circle-ring' is unknown",
    ),
    "field of another kind": Broken("graph: {kind: ring, p: 0.5}", 1, "graph.p", "no such field"),
    "missing field of a kind": Broken("graph: {kind: random-regular}", 1, "graph.degree", "add degree"),
    "torus of three": Broken("graph: {kind: torus}", 1, "graph.kind", "3 sites fill no torus"),
    "rows that do not divide": Broken(
        """
        sites: [{name: a, org: o}, {name: b, org: o}, {name: c, org: o}, {name: d, org: o}]
        graph: {kind: grid, rows: 3}
        """,
        2,
        "graph.rows",
        "4 sites in 3 rows make no grid; write one of 2",
    ),
    "hypercube of three": Broken("graph: {kind: hypercube}", 1, "graph.kind", "has 2, 4, 8, 16"),
    "more neighbours than sites": Broken(
        "graph: {kind: random-regular, degree: 3}",
        1,
        "graph.degree",
        "write a degree of at most 2",
    ),
    "odd number of odd degrees": Broken(
        "graph: {kind: random-regular, degree: 1}",
        1,
        "graph.degree",
        "write an even degree",
    ),
    "odd small world": Broken(
        "graph: {kind: watts-strogatz, k: 3, p: 0}",
        1,
        "graph.k",
        "even number below 3",
    ),
    "probability above one": Broken("graph: {kind: erdos-renyi, p: 1.5}", 1, "graph.p", "of at most 1"),
    "random graph in pieces": Broken(
        "graph: {kind: erdos-renyi, p: 0.001}",
        1,
        "graph",
        "not connected: 3 parts",
    ),
    # edges
    "edge to nobody": Broken(
        """
        graph:
          edges:
          - {from: bonn, to: heidelberg}
          - {from: aachen, to: bon}
        """,
        4,
        "graph.edges[1].to",
        "there is no site bon; did you mean bonn?",
    ),
    "edge without an end": Broken(
        """
        graph:
          edges:
          - from: bonn
        """,
        3,
        "graph.edges[0].to",
        "missing",
    ),
    "site as its own neighbour": Broken(
        """
        graph:
          edges:
          - {from: bonn, to: bonn}
        """,
        3,
        "graph.edges[0]",
        "bonn is its own neighbour",
    ),
    "edge given twice": Broken(
        """
        graph:
          edges:
          - {from: bonn, to: aachen}
          - {from: aachen, to: bonn}
        """,
        4,
        "graph.edges[1]",
        "stands twice",
    ),
    "graph in two parts": Broken(
        """
        graph:
          edges:
          - {from: bonn, to: aachen}
        """,
        1,
        "graph",
        "2 parts, and no way from",
    ),
    "directed graph without a way back": Broken(
        """
        graph:
          directed: true
          edges:
          - {from: bonn, to: aachen}
          - {from: aachen, to: heidelberg}
        weights: push-sum
        """,
        1,
        "graph",
        "no way from heidelberg to aachen",
    ),
    # weights
    "unknown rule": Broken("weights: metropoliss", 1, "weights", "did you mean metropolis?"),
    "weight of one": Broken(
        """
        weights: explicit
        graph:
          directed: true
          edges:
          - {from: bonn, to: aachen, weight: 1}
        """,
        5,
        "graph.edges[0].weight",
        "less than 1",
    ),
    "weights that leave less than nothing": Broken(
        """
        weights: explicit
        graph:
          edges:
          - {from: bonn, to: aachen, weight: 0.6}
          - {from: heidelberg, to: aachen, weight: 0.6}
        """,
        5,
        "graph.edges[1].weight",
        "the weights of aachen's neighbours sum to more than 1 (1.2)",
    ),
    "edge without its weight": Broken(
        """
        weights: explicit
        graph:
          edges:
          - {from: bonn, to: aachen, weight: 0.3}
          - {from: heidelberg, to: aachen}
        """,
        5,
        "graph.edges[1]",
        "add a weight between 0 and 1",
    ),
    "weights that the rule ignores": Broken(
        """
        graph:
          edges:
          - {from: bonn, to: aachen, weight: 0.3}
          - {from: heidelberg, to: aachen}
        weights: metropolis
        """,
        5,
        "weights",
        "write weights: explicit",
    ),
    "explicit weights without edges": Broken("weights: explicit", 1, "weights", "need edges that carry them"),
    "metropolis on a directed graph": Broken(
        """
        graph: {kind: ring, directed: true}
        weights: metropolis
        """,
        2,
        "weights",
        "write weights: push-sum",
    ),
    # run
    "no iterations": Broken(
        """
        run:
          algorithm: dgd
          iterations: 0
          problem: {path: flaremesh.problems.digits.Digits}
        """,
        3,
        "run.iterations",
        "greater than 0",
    ),
    "a quorum of one": Broken(
        """
        run:
          algorithm: dgd
          iterations: 1
          on_loss: continue
          quorum: 1
          problem: {path: flaremesh.problems.digits.Digits}
        """,
        5,
        "run.quorum",
        "write a value of at least 2",
    ),
    "a quorum of more than all sites": Broken(
        """
        run:
          algorithm: dgd
          iterations: 1
          on_loss: continue
          quorum: 40
          problem: {path: flaremesh.problems.digits.Digits}
        """,
        5,
        "run.quorum",
        "write at most",
    ),
    "a run to be resumed in which no site waits": Broken(
        """
        run:
          algorithm: r-fast
          iterations: 1
          asynchronous: true
          on_loss: wait
          problem: {path: flaremesh.problems.digits.Digits}
        """,
        5,
        "run.on_loss",
        "write on_loss: fail",
    ),
    "a run to be ended together in which no site waits": Broken(
        """
        run:
          algorithm: r-fast
          iterations: 1
          asynchronous: true
          on_loss: fail
          until: {accuracy: 0.9}
          problem: {path: flaremesh.problems.digits.Digits}
        """,
        6,
        "run.until",
        "remove until",
    ),
    "a quorum of a run that needs all": Broken(
        """
        run:
          algorithm: dgd
          iterations: 1
          on_loss: wait
          quorum: 2
          problem: {path: flaremesh.problems.digits.Digits}
        """,
        5,
        "run.quorum",
        "write on_loss: continue, or remove the quorum",
    ),
    "endless wait": Broken(
        """
        run:
          algorithm: dgd
          iterations: 1
          peer_timeout: .inf
          problem: {path: flaremesh.problems.digits.Digits}
        """,
        4,
        "run.peer_timeout",
        "inf is not finite; expected: seconds to wait",
    ),
    "option that is a list": Broken(
        """
        run:
          algorithm: gtadam
          iterations: 1
          options: {beta1: [0.9]}
          problem: {path: flaremesh.problems.digits.Digits}
        """,
        4,
        "run.options.beta1",
        "neither number, text nor truth value",
    ),
    "option that is no number": Broken(
        "run: {algorithm: dgd, iterations: 1, options: {a: .nan}, "
        "problem: {path: flaremesh.problems.digits.Digits}}",
        1,
        "run.options.a",
        "nan is not finite",
    ),
    "two sources of a problem": Broken(
        "run: {algorithm: dgd, iterations: 1, problem: {path: flaremesh.problems.digits.Digits, name: D}}",
        1,
        "run.problem",
        "a class has a path, or a file and a name",
    ),
    "problem's file that is not there": Broken(
        """
        code: {files: true}
        run: {algorithm: dgd, iterations: 1, problem: {file: mine.py, name: Mine}}
        """,
        2,
        "run.problem.file",
        "mine.py does not exist",
    ),
    "problem of a package that the kits do not allow": Broken(
        "run: {algorithm: dgd, iterations: 1, problem: {path: ourlab.problems.Tumour}}",
        1,
        "run.problem.path",
        "write code: {packages: [ourlab]}",
    ),
    "algorithm of a package that the kits do not allow": Broken(
        "run: {algorithm: ourlab.algorithms.Mine, iterations: 1, "
        "problem: {path: flaremesh.problems.digits.Digits}}",
        1,
        "run.algorithm",
        "write code: {packages: [ourlab]}",
    ),
    "unknown wire": Broken(
        """
        run:
          algorithm: dgd
          iterations: 1
          wire: bfloat
          problem: {path: flaremesh.problems.digits.Digits}
        """,
        4,
        "run.wire.encoding",
        "did you mean bfloat16?",
    ),
    "wire that is a number": Broken(
        """
        run:
          algorithm: dgd
          iterations: 1
          wire: 8
          problem: {path: flaremesh.problems.digits.Digits}
        """,
        4,
        "run.wire",
        "8 is no mapping of fields; expected: how vectors travel, e.g. bfloat16",
    ),
    "fraction of a wire that sends everything": Broken(
        """
        run:
          algorithm: dgd
          iterations: 1
          wire: {encoding: int8, fraction: 0.1}
          problem: {path: flaremesh.problems.digits.Digits}
        """,
        4,
        "run.wire",
        "remove the fraction, or write encoding: top-k",
    ),
    "fraction above one": Broken(
        """
        run:
          algorithm: dgd
          iterations: 1
          wire:
            encoding: top-k
            fraction: 1.5
          problem: {path: flaremesh.problems.digits.Digits}
        """,
        6,
        "run.wire.fraction",
        "of at most 1",
    ),
    "step of a wire that needs none": Broken(
        """
        run:
          algorithm: dgd
          iterations: 1
          wire: {encoding: bfloat16, gossip: 0.5}
          problem: {path: flaremesh.problems.digits.Digits}
        """,
        4,
        "run.wire",
        "bfloat16 mixes with the weights as they are",
    ),
    "clipping to no distance": Broken(
        """
        run:
          algorithm: dgd
          iterations: 1
          mixing: {clip: near}
          problem: {path: flaremesh.problems.digits.Digits}
        """,
        4,
        "run.mixing.clip",
        "'near' is no distance; write auto, or a number above 0",
    ),
    "mixing that is a word": Broken(
        """
        run:
          algorithm: dgd
          iterations: 1
          mixing: auto
          problem: {path: flaremesh.problems.digits.Digits}
        """,
        4,
        "run.mixing",
        "'auto' is no mapping of fields; expected: what becomes of the neighbours' vectors",
    ),
    # other spellings than the documented ones
    "edge as networkx spells it": Broken(
        """
        graph:
          edges:
          - {from: bonn, to: aachen}
          - {source: aachen, to: heidelberg}
        """,
        4,
        "graph.edges[1].source",
        "did you mean from?",
    ),
    "Python's name of a field": Broken("deploy: {gpu_image: flaremesh}", 1, "deploy.gpu_image", "gpuImage?"),
    "weights that are text and leave less than nothing": Broken(
        """
        weights: explicit
        graph:
          edges:
          - {from: bonn, to: aachen, weight: "0.6"}
          - {from: heidelberg, to: aachen, weight: 6e-1}
        """,
        5,
        "graph.edges[1].weight",
        "the weights of aachen's neighbours sum to more than 1 (1.2)",
    ),
    "weight that is a truth value": Broken(
        "graph: {edges: [{from: bonn, to: aachen, weight: yes}, {from: aachen, to: heidelberg}]}",
        1,
        "graph.edges[0].weight",
        "is a truth value; write a number",
    ),
    "weights that sum to more than one in one phase": Broken(
        """
        weights: explicit
        graph:
          edges:
          - {from: bonn, to: aachen, weight: 0.6}
          - {from: bonn, to: aachen, weight: 0.6, phase: 2}
          - {from: heidelberg, to: aachen, weight: 0.6, phase: 2}
        """,
        6,
        "graph.edges[2].weight",
        "the weights of aachen's neighbours sum to more than 1 (1.2)",
    ),
    "phase without edges": Broken(
        "graph: {edges: [{from: bonn, to: aachen}, {from: aachen, to: heidelberg, phase: 3}]}",
        1,
        "graph",
        "phase 3 has edges, and phase 2 has none; number the phases from 1 on",
    ),
    "phase that is no number": Broken(
        "graph: {edges: [{from: bonn, to: aachen, phase: [1]}, {from: aachen, to: heidelberg}]}",
        1,
        "graph.edges[0].phase",
        "is no whole number",
    ),
    "other weights than those of the graph": Broken(
        "graph: {kind: base-graph}\nweights: metropolis",
        2,
        "weights",
        "base-graph has weights of its own, not metropolis ones; leave weights out, or write explicit",
    ),
    "more random peers than there are": Broken(
        "graph: {kind: random-peers, peers: 3}\nweights: explicit",
        1,
        "graph.peers",
        "a site has 2 others; write at most 2",
    ),
    "more random hops than there are": Broken(
        "graph: {kind: equitopo, hops: 3}\nweights: explicit",
        1,
        "graph.hops",
        "there are 2 hops; write at most 2",
    ),
    "more phases than memory holds": Broken(
        "graph: {kind: random-peers, phases: 100001}\nweights: explicit",
        1,
        "graph.kind",
        "3 sites would have 300,003 edges, and 300,000 are the most; draw fewer phases",
    ),
    "graph with edges and a file": Broken(
        "graph: {file: edges.txt, edges: [{from: bonn, to: aachen}, {from: aachen, to: heidelberg}]}",
        1,
        "graph.file",
        "no such field",
    ),
    "GPUs that are a truth value": Broken(
        "sites: [{name: bonn, org: ukb, gpus: yes}, {name: aachen, org: uka}]",
        1,
        "sites[0].gpus",
        "is a truth value; write a number",
    ),
    "field whose name is a number": Broken(
        """
        server:
          host: localhost
          org: consortium
          8002: port
        """,
        4,
        "server.8002",
        "YAML takes the field's name for 8002; put it in quotes",
    ),
    "field whose name YAML takes for true": Broken(
        "run: {algorithm: dgd, iterations: 1, problem: {path: flaremesh.problems.digits.Digits, "
        "args: {on: 1}}}",
        1,
        "run.problem.args.True",
        "YAML takes the field's name for true",
    ),
    # what certificates, NVFlare and Kubernetes cannot hold
    "e-mail address longer than a certificate's name": Broken(
        f"admins: [{{email: {'a' * 60}@b.de, org: c}}]",
        1,
        "admins[0].email",
        "has 65 characters; write at most 64",
    ),
    "organisation longer than a certificate's": Broken(
        f"server: {{host: localhost, org: {'a' * 65}}}", 1, "server.org", "write at most 64"
    ),
    "admins who differ in capitals only": Broken(
        "admins: [{email: A@b.de, org: c}, {email: a@b.de, org: c}]",
        1,
        "admins[1].email",
        "is already admins[0]",
    ),
    "host with an empty label": Broken(
        "server: {host: mesh..org, org: c}", 1, "server.host", "neither a host name nor an address"
    ),
    "host with a label that is too long": Broken(
        f"server: {{host: {'a' * 64}.org, org: c}}", 1, "server.host", "63 at most between two dots"
    ),
    "host with an underscore": Broken("server: {host: a_b, org: c}", 1, "server.host", "inner hyphens"),
    "host that is no IPv4 address": Broken(
        "server: {host: 10.0.0.256, org: c}", 1, "server.host", "is no IPv4 address"
    ),
    "host that is no IPv6 address": Broken(
        "server: {host: '2001:db8::1::2', org: c}", 1, "server.host", "is no IPv6 address"
    ),
    "host that is an IPv6 address in brackets": Broken(
        "server: {host: '[2001:db8::1]', org: c}", 1, "server.host", "without scheme, port, brackets and zone"
    ),
    "host that is an IPv6 address with a zone": Broken(
        "server: {host: 'fe80::1%eth0', org: c}", 1, "server.host", "without scheme, port, brackets and zone"
    ),
    "host that is a link-local address": Broken(
        "server: {host: 'fe80::1', org: c}", 1, "server.host", "write a global or a unique local address"
    ),
    "host that is an IPv4 address in IPv6": Broken(
        "server: {host: '::ffff:192.0.2.1', org: c}", 1, "server.host", "write 192.0.2.1"
    ),
    "sites of one IPv6 address in two spellings without a port each": Broken(
        """
        sites:
        - {name: bonn, org: ukb, link: {host: '2001:db8::1', ports: 8102}}
        - {name: ulm, org: uka, link: {host: '2001:DB8:0::1', ports: 8102}}
        """,
        3,
        "sites[1].link.ports",
        "others at 2001:db8::1 take all of 8102",
    ),
    "meeting point on the server's port": Broken(
        "server: {host: h, org: c, port: 8003, meet: {host: H}}",
        1,
        "server.meet.port",
        "8003 is the server's own port",
    ),
    "site without a port beside the meeting point": Broken(
        """
        server: {host: s, org: c, meet: {host: h, port: 8102}}
        sites:
        - {name: bonn, org: ukb, link: {host: h, ports: 8102}}
        - {name: aachen, org: uka}
        """,
        3,
        "sites[0].link.ports",
        "others at h take all of 8102",
    ),
    "host with a port": Broken(
        "server: {host: localhost, names: ['h:80'], org: c}", 1, "server.names[0]", "write the host alone"
    ),
    "certificate beyond the calendar": Broken(
        "certificates: {root_days: 3000000}", 1, "certificates.root_days", "of at most 36500"
    ),
    "serial number that is none": Broken(
        "certificates: {revoked: [bonn]}", 1, "certificates.revoked[0]", "provision --json"
    ),
    "serial number longer than any": Broken(
        f"certificates: {{revoked: [{2**160}]}}", 1, "certificates.revoked[0]", "provision --json"
    ),
    "sites of one host without a port each": Broken(
        """
        sites:
        - {name: bonn, org: ukb, link: {host: h, ports: 8102-8103}}
        - {name: aachen, org: uka, link: {host: H, ports: 8102}}
        - {name: kiel, org: uksh, link: {host: h, ports: 8103}}
        - {name: ulm, org: uku, link: {host: other, ports: 8102}}
        """,
        4,
        "sites[2].link.ports",
        "others at h take all of 8103",
    ),
    "site at the server's port": Broken(
        "sites: [{name: bonn, org: ukb, link: {host: localhost, ports: 8002}}, {name: aachen, org: uka}]",
        1,
        "sites[0].link.ports",
        "others at localhost take all of 8002",
    ),
    "image with a space": Broken("deploy: {image: 'a b'}", 1, "deploy.image", "e.g. registry.example.org"),
    "image with capitals in its path": Broken(
        "deploy: {image: ghcr.io/Lab/flaremesh}", 1, "deploy.image", "no capitals in its path"
    ),
    # bounds
    "negative seed": Broken("graph: {kind: erdos-renyi, p: 1, seed: -1}", 1, "graph.seed", "of at least 0"),
    "more edges than a machine holds": Broken(
        f"sites: [{', '.join(f'{{name: s{i}, org: o}}' for i in range(600))}]\ngraph: {{kind: complete}}",
        2,
        "graph.kind",
        "600 sites would have 359,400 edges",
    ),
    "optimal weights of many sites": Broken(
        f"sites: [{', '.join(f'{{name: s{i}, org: o}}' for i in range(151))}]\nweights: optimal",
        2,
        "weights",
        "takes hours for 151 sites; write weights: metropolis",
    ),
    # scalars
    "number with a leading zero": Broken(
        "run: {algorithm: dgd, iterations: 010, problem: {path: flaremesh.problems.digits.Digits}}",
        1,
        "run.iterations",
        "YAML reads 010 in several ways",
    ),
    "number in base 60": Broken(
        "run: {algorithm: dgd, iterations: 1, problem: {path: flaremesh.problems.digits.Digits, "
        "args: {time: 12:30}}}",
        1,
        "run.problem.args.time",
        "YAML reads 12:30 in several ways",
    ),
    "number of too many digits": Broken(
        f"server: {{host: localhost, org: c, port: {'9' * 5000}}}", 1, "server.port", "5000 digits"
    ),
    "number beyond all": Broken(
        "run: {algorithm: dgd, iterations: 1, stepsize: 1e999, "
        "problem: {path: flaremesh.problems.digits.Digits}}",
        1,
        "run.stepsize",
        "1e999 is larger than every number",
    ),
    "date that does not exist": Broken("name: 2024-02-30", 1, "name", "there is no date 2024-02-30"),
    "country that YAML takes for false": Broken(
        "server: {host: localhost, org: NO}", 1, "server.org", "NO is no text; YAML takes it"
    ),
    # merge keys
    "field given twice beside a merge key": Broken(
        """
        sites:
        - &first {name: bonn, org: ukb}
        - <<: *first
          name: aachen
          name: kiel
        """,
        5,
        "sites[1].name",
        "already in line 4",
    ),
    "field given twice in what a merge key takes": Broken(
        "server: {host: localhost, <<: {org: a, org: b}}", 1, "server.org", "already in line 1"
    ),
    "merge key of a number": Broken(
        """
        server:
          host: localhost
          org: c
          <<: 5
        """,
        4,
        "server.<<",
        "it takes a mapping or a list of mappings",
    ),
    "mistake behind an alias": Broken(
        """
        deploy:
          values:
            address: &link
              host: a_b
              ports: 8102
        sites:
        - {name: bonn, org: ukb, link: *link}
        - {name: aachen, org: uka}
        """,
        4,
        "sites[0].link.host",
        "neither a host name",
    ),
    # YAML
    "alias inside its anchor": Broken("name: &a [*a]", 1, "", "the alias *a stands for what it stands in"),
    "alias without an anchor": Broken("name: *a", 1, "", "there is no anchor &a above"),
    "ten to the twelve values": Broken(
        "\n".join(
            ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
            + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
        ),
        6,
        "",
        "more than 1,000,000 values",
    ),
    "ten thousand brackets": Broken(
        "name: " + "[" * 10_000 + "]" * 10_000, 1, "", "more than 100 lists and mappings stand inside each"
    ),
    "ten thousand aliases of each other": Broken(
        "\n".join(["a0: &a0 []", *(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 10_000))]),
        101,
        "",
        "stand inside each other",
    ),
    "placeholder of a template": Broken("name: {{ .Values.mesh }}", 1, "name", "in quotes"),
    "tab": Broken(
        """
        server:
        \thost: localhost
        """,
        2,
        "",
        "indent with spaces",
    ),
    "open bracket": Broken(
        """
        admins: [
        name: ring3
        """,
        3,
        "",
        "this is not YAML",
    ),
    "tag that runs code": Broken(
        "name: !!python/name:os.system", 1, "", "the tag !!python/name:os.system is unknown"
    ),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
def test_a_mistake_is_reported_at_its_line_and_field_with_its_remedy(broken: Broken, tmp_path: Path) -> None:
    path = tmp_path / "topology.yaml"
    path.write_text(with_sections(broken.snippet))

    with pytest.raises(TopologyError) as raised:
        load(path)

    (mistake,) = raised.value.mistakes
    assert (mistake.line, mistake.field) == (broken.line, broken.field)
    assert broken.words in str(mistake)


def test_all_mistakes_of_a_file_come_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "topology.yaml"
    path.write_text(
        with_sections(
            "name: Ring\n"
            "sites:\n"
            "- {name: bonn, org: ukb}\n"
            "- {name: bonn, org: uk-b}\n"
            "- {name: aachen, org: uka}\n"
            "graph: {edges: [{from: bonn}, {from: aachen, to: kiel}]}\n"
            "weights: best\n"
            "run: {algoritm: dgd, iterations: many}\n"
        )
    )

    with pytest.raises(TopologyError) as raised:
        load(path)

    assert [(mistake.line, mistake.field) for mistake in raised.value.mistakes] == [
        (1, "name"),
        (4, "sites[1].org"),
        (4, "sites[1].name"),
        (6, "graph.edges[0].to"),
        (6, "graph.edges[1].to"),
        (7, "weights"),
        (8, "run.iterations"),
        (8, "run.problem"),
        (8, "run.algoritm"),
    ]
    assert str(raised.value).startswith(f"{path}: 9 mistakes")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"# nothing but a comment\n", "the file is empty"),
        (b"- bonn\n", "the file holds no fields"),
        (b"name: \xff\xfe\n", "not UTF-8"),
        (b"name: \x07\n", "this is not YAML"),
        (b"name: ring\0\n", "not UTF-8 text, for it holds a NUL"),
        (b"name: ring\n---\nname: ring\n", "line 2: a second document starts here"),
        (b"x" * (2**25 + 1), "larger than 32 MiB"),
    ],
)
def test_a_file_without_fields_is_one_mistake(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "topology.yaml"
    path.write_bytes(content)

    with pytest.raises(TopologyError, match=words) as raised:
        load(path)

    assert len(raised.value.mistakes) == 1


def test_a_missing_file_is_a_mistake_too(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match="No such file or directory; check the path"):
        load(tmp_path / "topology.yaml")


def test_a_folder_and_a_device_are_no_files_and_nobody_waits_for_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, Path("/dev/zero"), tmp_path / "pipe"):
        with pytest.raises(TopologyError, match="is a folder or a device; name a file of text"):
            load(path)


def test_a_mistake_is_a_line_field_problem_and_remedy() -> None:
    assert str(LineMistake(3, "sites[1].name", "no name", "write one")) == (
        "line 3: sites[1].name: no name; write one"
    )
    assert str(LineMistake(1, "", "the file is empty", "fill it")) == "line 1: the file is empty; fill it"


def test_a_mistake_shows_what_a_terminal_hides(tmp_path: Path) -> None:
    path = tmp_path / "topology.yaml"
    path.write_text(with_sections("graph: {edges: [{from: bonn, to: aachen\u200b}]}"))

    with pytest.raises(TopologyError, match=r"there is no site aachen\\u200b; did you mean aachen\?"):
        load(path)


@pytest.mark.parametrize(
    ("edges", "words"),
    [
        ("bonn aachen\nbon heidelberg\n", "edges.txt, line 2: there is no site bon; did you mean bonn?"),
        (
            "# ring\n\nbonn aachen heidelberg 0.3\n",
            "edges.txt, line 3: .* is no edge; write: from to \\[weight\\]",
        ),
        ("bonn aachen heavy\n", "edges.txt, line 1: 'heavy' is no number"),
        ("bonn aachen 0,3\n", "edges.txt, line 1: '0,3' is no number"),
        ("bonn aachen nan\n", "edges.txt, line 1: nan is not finite"),
        ("source,target\nbonn,aachen\n", "edges.txt, line 1: there is no site source"),
        ("bonn aachen\nbonn bonn", "edges.txt, line 2: bonn is its own neighbour"),
        ("bonn aachen\0", "edges.txt is not UTF-8 text"),
        ("", "edges.txt: 0 given, at least 1 needed"),
        ("bonn aachen\n" * 300_001, "edges.txt has more than 300,000 lines"),
        ("phase\n\nphase\nbonn aachen\n", "edges.txt, line 1: no edges follow in this phase; add some"),
        ("bonn aachen\nphase  # the last\n", "edges.txt, line 2: no edges follow in this phase"),
        ("bonn aachen\nphase\nbonn aachen\naachen bonn\n", "edges.txt, line 4: the edge .* stands twice"),
        (None, "edges.txt cannot be read"),
    ],
)
def test_a_mistake_in_an_edge_list_names_its_line_there(
    edges: str | None, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "topology.yaml"
    path.write_text(with_sections("graph: {file: edges.txt}"))
    if edges is not None:
        (tmp_path / "edges.txt").write_text(edges)

    with pytest.raises(TopologyError, match=words) as raised:
        load(path)

    assert {mistake.line for mistake in raised.value.mistakes} == {1}


PROBLEM_FILE = (
    "code: {{files: true}}\n"
    "run: {{algorithm: dgd, stepsize: 1, iterations: 1, problem: {{file: {}, name: P}}}}"
)


@pytest.mark.parametrize("section", ["graph: {{file: {}}}", PROBLEM_FILE])
@pytest.mark.parametrize(
    "name", ["../outside/file.py", "{outside}/file.py", "link.py", "linked/file.py", "/dev/zero"]
)
def test_a_topology_file_reaches_nothing_outside_its_own_folder(
    name: str, section: str, tmp_path: Path
) -> None:
    folder, outside = tmp_path / "mailed", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / "file.py").write_text("bonn aachen\naachen heidelberg\n")
    (folder / "link.py").symlink_to(outside / "file.py")
    (folder / "linked").symlink_to(outside)
    path = folder / "topology.yaml"
    path.write_text(with_sections(section.format(name.format(outside=outside))))

    with pytest.raises(
        TopologyError, match="outside of the topology file's folder; copy the file into"
    ) as raised:
        load(path)

    assert len(raised.value.mistakes) == 1


@pytest.mark.parametrize("name", ["sub/file.py", "sub/../file.py", "link.py", "{folder}/file.py"])
def test_any_way_to_a_file_in_the_folder_is_one(name: str, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for file in (tmp_path / "file.py", tmp_path / "sub/file.py"):
        file.touch()
    (tmp_path / "link.py").symlink_to("sub/file.py")
    path = tmp_path / "topology.yaml"
    path.write_text(with_sections(PROBLEM_FILE.format(name.format(folder=tmp_path))))

    file = load(path).run.problem.file

    assert file is not None
    assert file == file.resolve()
    assert file.is_relative_to(tmp_path.resolve())
