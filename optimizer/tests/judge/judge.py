"""Solves allocation problems with HiGHS, for the tests to compare with.

usage: judge.py DIRECTORY

Reads every NAME.json in the directory (a problem as `heliostat_optimizer::
allocate::Problem` is serialised) and prints one JSON object: NAME -> optimal
objective, or null where HiGHS finds none. Shares no code with what it judges:
the whole program, every limit, every stretch of every curve.
"""

import json
import pathlib
import sys

import highspy
import numpy as np


def speed(points, cap):
    return float(np.interp(cap, [p[0] for p in points], [p[1] for p in points]))


def floor_cap(points, wanted, low, high):
    if speed(points, low) >= wanted:
        return low
    for _ in range(100):
        middle = 0.5 * (low + high)
        if speed(points, middle) >= wanted:
            high = middle
        else:
            low = middle
    return high


def solve(problem):
    nodes, devices = problem["nodes"], problem["devices"]
    price = problem["price_of_energy"]
    above = []
    for place, node in enumerate(nodes):
        path = {place}
        for parent in node["parents"]:
            path |= above[parent]
        above.append(path)

    contracts = problem["contracts"]
    limits = nodes + contracts
    room = [
        n["limit"] + n.get("spare", 0.0) - n["uncontrolled"] - n["uncertainty"] for n in limits
    ]
    rows_above = []
    for place, device in enumerate(devices):
        path = set(above[device["node"]])
        for k, contract in enumerate(contracts):
            if place in contract["devices"] or path & set(contract["nodes"]):
                path.add(len(nodes) + k)
        rows_above.append(path)
    constant = 0.0
    held = {d for g in problem["groups"] for d in g["devices"]}
    for place, device in enumerate(devices):
        if place not in held:
            constant -= price * device["min"]
            for node in rows_above[place]:
                room[node] -= device["min"]

    highs = highspy.Highs()
    highs.setOptionValue("output_flag", False)
    highs.setOptionValue("primal_feasibility_tolerance", 1e-9)
    highs.setOptionValue("dual_feasibility_tolerance", 1e-9)
    rows = [([], []) for _ in limits]
    for group in problem["groups"]:
        members = [devices[d] for d in group["devices"]]
        low = max(d["min"] for d in members)
        high = min(d["max"] for d in members)
        points = group["curve"]
        floor = floor_cap(points, group["floor_speed"], low, high)
        worth = group["weight"] * len(members)
        constant += worth * speed(points, floor) - price * len(members) * floor
        count = {}
        for place in group["devices"]:
            for node in rows_above[place]:
                count[node] = count.get(node, 0) + 1
        for node, n in count.items():
            room[node] -= n * floor
        for (w0, s0), (w1, s1) in zip(points, points[1:]):
            begin, end = max(w0, floor), min(w1, high)
            if end <= begin:
                continue
            gain = worth * (s1 - s0) / (w1 - w0) - price * len(members)
            column = highs.getNumCol()
            highs.addCol(-gain, 0.0, end - begin, 0, [], [])
            for node, n in count.items():
                rows[node][0].append(column)
                rows[node][1].append(float(n))
    for (columns, values), left in zip(rows, room):
        if columns:
            highs.addRow(
                -highspy.kHighsInf,
                left,
                len(columns),
                np.array(columns, dtype=np.int32),
                np.array(values),
            )
    if highs.getNumCol() == 0:
        return constant
    highs.run()
    if highs.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        return None
    return constant - highs.getInfo().objective_function_value


def main():
    directory = pathlib.Path(sys.argv[1])
    answers = {f.stem: solve(json.loads(f.read_text())) for f in sorted(directory.glob("*.json"))}
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
